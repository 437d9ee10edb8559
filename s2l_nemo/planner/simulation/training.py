"""Which replica of the actor trains on what, and how many FLOP that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from s2l_nemo.algorithm.sharing import balanced_replicas
from s2l_nemo.config.parts import data_parallel_size, mini_batch_prompts
from s2l_nemo.config.schema import Config
from s2l_nemo.models.flops import group_flops
from s2l_nemo.models.shape import ModelShape
from s2l_nemo.planner.cost import Assumed, responses_of_a_prompt
from s2l_nemo.planner.simulation.lengths import Group, Model
from s2l_nemo.planner.simulation.rates import update_passes
from s2l_nemo.planner.simulation.rollout import Sampler

TOKEN_BYTES = 8  # a token id and its log-prob


@dataclass(frozen=True)
class TrainingWork:
    """Of one step. U updates of one pass, R replicas of the actor."""

    replica_P: list[int]  # that trains on each group
    logprobs_R: list[float]  # FLOP ahead of the updates: reference and old log-probs
    updates_UR: list[list[float]]  # FLOP


def replicas_of(groups: Sequence[Group], replicas: int, per_update: int, balanced: bool) -> list[int]:
    """The replica of each group: as the trainer places them, or in turn."""
    if balanced:
        tokens_P = [group[0].prompt + sum(answer.length for answer in group) for group in groups]
        return balanced_replicas(tokens_P, replicas, per_update)
    return [p % replicas for p in range(len(groups))]


def training_work(
    cfg: Config, shape: ModelShape, groups: Sequence[Group], assumed: Assumed, balanced: bool
) -> TrainingWork:
    """The work of each replica, as `cost.step_seconds` counts it, of the lengths that the groups really have."""
    replicas, per_update = data_parallel_size(cfg), mini_batch_prompts(cfg)
    replica_P = replicas_of(groups, replicas, per_update, balanced)
    shared = responses_of_a_prompt(cfg, assumed)
    of_layers, of_output = update_passes(cfg)
    ahead = 0 if cfg.algorithm.optimizer_passes > 1 else 1  # the first update whose old log-probs are computed ahead
    logprobs_R = [0.0] * replicas
    updates_UR = [[0.0] * replicas for _ in range(len(groups) // per_update)]
    for p, (group, replica) in enumerate(zip(groups, replica_P, strict=True)):
        lengths = [answer.length for answer in group]
        work = group_flops(shape, group[0].prompt, lengths, copies=len(group) / shared)
        update = p // per_update
        passes = (cfg.algorithm.kl_coef > 0) + (update >= ahead)
        logprobs_R[replica] += passes * (work.layers + work.output)
        updates_UR[update][replica] += of_layers * work.layers + of_output * work.output
    return TrainingWork(replica_P, logprobs_R, updates_UR)


def rank_replicas(cfg: Config) -> list[int]:
    """The replica of each rank, in Megatron's order: tensor-parallel ranks are neighbours, then come replicas."""
    ranks, replicas = cfg.trainer.devices * cfg.trainer.num_nodes, data_parallel_size(cfg)
    return [rank // cfg.model.tensor_model_parallel_size % replicas for rank in range(ranks)]


def exchange_bytes(
    groups: Sequence[Group],
    replica_P: Sequence[int],
    replica_of: Sequence[int],
    sampler: Sampler,
    leaders: Mapping[Model, Sequence[int]],
) -> list[float]:
    """Bytes that each rank sends or receives, the larger of both.

    The leader of the engine that has sampled a completion sends it to the other ranks of the replica that trains on it.
    """
    members: dict[int, list[int]] = {}
    for rank, replica in enumerate(replica_of):
        members.setdefault(replica, []).append(rank)
    sent, received = [0.0] * len(replica_of), [0.0] * len(replica_of)
    for group, replica in zip(groups, replica_P, strict=True):
        for answer in group:
            leader = leaders[answer.model][sampler[answer.prompt_id, answer.sample_id]]
            for rank in members[replica]:
                if rank != leader:
                    sent[leader] += TOKEN_BYTES * answer.length
                    received[rank] += TOKEN_BYTES * answer.length
    return [max(pair) for pair in zip(sent, received, strict=True)]
