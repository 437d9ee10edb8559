"""The figures of one step, from its groups, its `StepSums` and its clock. A figure without a basis is None."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from s2l_nemo.algorithm.advantages import zero_variance_fraction
from s2l_nemo.algorithm.schedule import Split
from s2l_nemo.measures.statistics import mean
from s2l_nemo.trainer.clock import Clock
from s2l_nemo.trainer.sums import StepSums
from s2l_nemo.types import Completion, Group, Source

Metrics = dict[str, float | int | None]


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """The quotient; None if one of the two is None, or the denominator is 0."""
    return numerator / denominator if numerator is not None and denominator else None


def rollout_metrics(split: Split, groups: Sequence[Group]) -> Metrics:
    """Rewards, lengths in tokens, and the share of answers cut at the limit: of all completions and by source.

    Completions that the explorer filter left out are counted too.
    """
    completions = [completion for group in groups for completion in group.completions]
    rewards_PG = torch.tensor([group.rewards_G() for group in groups])
    kept_PG = torch.tensor([group.kept_G() for group in groups])

    def of(figure: Callable[[Completion], float], chosen: Sequence[Completion]) -> float | None:
        return mean([figure(completion) for completion in chosen])

    def reward(completion: Completion) -> float:
        return completion.reward or 0.0

    def length(completion: Completion) -> float:
        return float(len(completion.token_ids))

    def truncated(completion: Completion) -> float:
        return float(completion.finish_reason == "length")

    metrics: Metrics = {
        "alpha": split.alpha,
        "group/explorer": split.explorer,
        "group/learner": split.learner,
        "group/zero_variance_fraction": zero_variance_fraction(rewards_PG, kept_PG),
        "group/kept": kept_PG.sum(1).float().mean().item(),
        "reward/mean": of(reward, completions),
        "reward/grader_errors": sum(completion.grader_error is not None for completion in completions),
        "response_length/mean": of(length, completions),
        "response_length/truncated_fraction": of(truncated, completions),
    }
    for source in Source:
        name = source.name.lower()
        chosen = [completion for completion in completions if completion.source is source]
        metrics[f"reward/{name}"] = of(reward, chosen)
        metrics[f"response_length/{name}"] = of(length, chosen)
        metrics[f"response_length/truncated_fraction_{name}"] = of(truncated, chosen)
    return metrics


def update_metrics(sums: StepSums) -> Metrics:
    """`loss` and `grad_norm` are means over the updates of the step. All others are means over tokens.

    `ratio`, `clip_fraction`, `kl` and `logprob_diff` count a token once for each pass. Units: nats for `kl`, `entropy`
    and `logprob_diff`.
    """
    metrics: Metrics = {
        "loss": sums.loss / sums.updates,
        "grad_norm": sums.grad_norm / sums.updates,
        "kl": ratio(sums.total.kl, sums.total.tokens),
        "entropy": ratio(sums.entropy, sums.entropy_tokens),
        "clip_fraction": ratio(sums.total.clipped, sums.total.tokens),
        "ratio/mean": ratio(sums.total.ratio, sums.total.tokens),
    }
    for source in (Source.EXPLORER, Source.LEARNER):
        name, own = source.name.lower(), sums.by_source[source]
        metrics[f"kl/{name}"] = ratio(own.kl, own.tokens)
        metrics[f"clip_fraction/{name}"] = ratio(own.clipped, own.tokens)
        metrics[f"ratio/{name}"] = ratio(own.ratio, own.tokens)
        metrics[f"logprob_diff/{name}"] = ratio(own.logprob_diff, own.tokens)
    return metrics


def throughput(clock: Clock, groups: Sequence[Group], trained_tokens: float) -> Metrics:
    """Response tokens a second, of all ranks together.

    Rollout: the sampled tokens, over the seconds of the rollout phase. Train: `trained_tokens`, which counts a token
    once for each pass, over the seconds of log-probs and updates.
    """
    sampled = sum(len(completion.token_ids) for group in groups for completion in group.completions)
    seconds = clock.seconds
    train = seconds.get("logprobs", 0.0) + seconds.get("update", 0.0)
    return {
        "throughput/rollout_tokens_per_s": ratio(sampled, seconds.get("rollout")),
        "throughput/train_tokens_per_s": ratio(trained_tokens, train),
    }
