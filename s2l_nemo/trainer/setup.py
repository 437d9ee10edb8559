"""From the configuration to a Trainer that is ready to run, on one rank."""

from __future__ import annotations

import datetime
import gc
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from omegaconf import OmegaConf

from s2l_nemo.algorithm.losses.policy import PolicyLoss
from s2l_nemo.algorithm.schedule import make_schedule
from s2l_nemo.config.checks import Models
from s2l_nemo.config.explorers import Explorer, explorers_of
from s2l_nemo.config.load import resolved_yaml
from s2l_nemo.config.resume import t_mix_of
from s2l_nemo.config.schema import Config, ExplorerFilter, ExplorerSource
from s2l_nemo.data.prompts import PromptSet, load_prompts
from s2l_nemo.engines.absent import AbsentLearnerEngine
from s2l_nemo.engines.build import EngineFactory, Servers, make_engines
from s2l_nemo.engines.kinds import ENGINES
from s2l_nemo.engines.options import EngineConfig, Placement
from s2l_nemo.engines.protocol import LearnerEngine, RolloutEngine
from s2l_nemo.errors import UserError
from s2l_nemo.files import check_free_space
from s2l_nemo.models.open import Model, check_same_tokenizer, tokenizer_hash
from s2l_nemo.records.checkpoints import Checkpoint
from s2l_nemo.records.console import StepConsole
from s2l_nemo.records.directory import RunDir, begun_config, create_run_dir, say_on_stderr
from s2l_nemo.records.identity import Identity, check_same_identity, settle_identity
from s2l_nemo.records.metrics import MetricsWriter
from s2l_nemo.rewards.asked import start_warnings, wanted
from s2l_nemo.rewards.grader import make_grader
from s2l_nemo.trainer.diversity_filter import DiversityFilter
from s2l_nemo.trainer.early import Early, read_early
from s2l_nemo.trainer.fingerprints import identity_of
from s2l_nemo.trainer.grading import Grading
from s2l_nemo.trainer.group_sampler import ExplorerRole, GroupSampler
from s2l_nemo.trainer.identity import restored_state, weight_hashes
from s2l_nemo.trainer.loop import Limits, Trainer
from s2l_nemo.trainer.optimizer_steps import optimizer_steps
from s2l_nemo.trainer.progress import Progress
from s2l_nemo.trainer.ranks import Ranks
from s2l_nemo.trainer.recorder import Recorder
from s2l_nemo.trainer.rollouts import Rollouts
from s2l_nemo.trainer.same_commits import check_same_commits
from s2l_nemo.trainer.stop import StopRequest
from s2l_nemo.trainer.stored import (
    check_stores,
    replay_identity,
    replaying,
    sampling_shapes,
    store_engines,
    stored_samples,
)
from s2l_nemo.trainer.time_limit import OUT_OF_TIME, TIME_IS_UP
from s2l_nemo.trainer.validation_sets import SetPrompts, graded_sets, load_sets, set_facts
from s2l_nemo.types import SamplingParams

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from s2l_nemo.actor.actor import S2LActor

REPORT_FAILED = 3  # exit code: the weights are complete, the summary or the plots are not
SHORTEST_TIMEOUT_S = 1800.0  # of a collective; what else ranks wait for is grading, writing a checkpoint, each other
LOST_SERVER_S = 60.0  # until a lost server has ended
CHECKPOINT_BYTES_PER_PARAMETER = 16  # weights, fp32 master weights and two moments, with room


@dataclass(frozen=True)
class Inputs:
    """What a run reads before it begins."""

    models: Models
    train: PromptSet
    valid: PromptSet
    sets: Sequence[SetPrompts] = ()  # benchmarks
    warnings: Sequence[str] = ()
    identity: Identity = field(default_factory=dict)


def run_training(cfg: Config, inputs: Inputs, save_before: float | None = None) -> int:
    """The whole run of one rank: build, train, deliver, report. Returns the signal that ended it early, 0 for none.

    `save_before` is the time of `run.save_before`, in seconds of the epoch.

    Raises SystemExit with REPORT_FAILED if the trained weights are complete and a report about them is not, and with
    OUT_OF_TIME if the run has saved before its time limit.
    """
    trainer = build_trainer(cfg, inputs, StopRequest)
    trainer.limit.at = save_before
    recorder = trainer.recorder
    gc.collect()
    gc.freeze()  # a collection then looks at nothing but what the steps have made
    try:
        received = trainer.fit()
        reported = True
        if received == 0:
            trainer.rollouts.sleep()  # after a validation, engines are where the actor's weights must go
            if cfg.run.save_nemo:
                recorder.save_nemo(trainer.actor)
            if cfg.run.export_hf:
                recorder.export_hf(trainer.actor)
            reported = recorder.summarize(trainer.step)
    finally:
        recorder.close()
        trainer.close()
    if received == TIME_IS_UP:
        recorder.say(
            f"saved after step {trainer.step} of {cfg.algorithm.steps}, as run.save_before={cfg.run.save_before} "
            "leaves no time for another; run the same command again to continue"
        )
        raise SystemExit(OUT_OF_TIME)
    if received:
        name = signal.Signals(received).name
        recorder.say(f"stopped by {name} after step {trainer.step}; run the same command again to continue")
    if not reported:
        raise SystemExit(REPORT_FAILED)
    return received


def build_trainer(cfg: Config, inputs: Inputs, stop: Callable[[], StopRequest]) -> Trainer:
    """Opens the run directory, builds actor and engines, and restores a checkpoint if there is one.

    Signals end the process at once until all of it is there; then `stop` is called, and they wait for the step's end.

    Raises UserError, before any model is loaded, if the run directory does not fit.
    """
    from s2l_nemo.actor.build import init_process_groups

    learner = inputs.models.learner
    tokenizer, stop_ids = learner.tokenizer, learner.stop_token_ids
    grader = make_grader(cfg.data, cfg.rewards)
    init_process_groups(cfg.model, collective_timeout_s(cfg.engine))
    check_same_commits()
    run_dir, resumed = open_run_dir(cfg, inputs.identity)

    def decode(token_ids: Sequence[int]) -> str:
        return str(tokenizer.decode(token_ids, skip_special_tokens=True))

    actor = make_actor(cfg, learner)
    stores = store_engines(cfg)
    engines = make_rollouts(cfg, inputs.models, actor, run_dir, Grading(decode, grader), stores)
    rollouts = replaying(cfg, engines)
    explorers = explorers_of(cfg)
    identity = weight_hashes(rollouts, explorers) | stored_samples(cfg, stores) | replay_identity(cfg)
    engines.sleep()
    state = restored_state(actor, resumed, identity, cfg)
    progress = Progress.of(state, cfg.algorithm.prompts_per_step)

    rollout = cfg.rollout
    sampling = learner_sampling(cfg, learner)
    recorder = make_recorder(cfg, run_dir, resumed, identity, decode, actor, rollouts.ranks, state)
    announce(recorder, cfg, inputs, resumed)
    return Trainer(
        algorithm=cfg.algorithm,
        loss=PolicyLoss.of(cfg.algorithm, [one.name for one in explorers] if len(explorers) > 1 else []),
        validation=cfg.validation,
        checkpoint=cfg.checkpoint,
        limits=make_limits(cfg, pad_token_id(tokenizer)),
        run_seed=cfg.run.seed,
        schedule=make_schedule(cfg.algorithm.schedule, cfg.algorithm.steps),
        sampler=make_sampler(cfg, inputs, rollouts, sampling, progress),
        valid_prompts=inputs.valid.prompts,
        sampling=sampling,
        valid_sampling=SamplingParams(rollout.max_response_length, stop_ids, cfg.validation.temperature),
        actor=actor,
        shape=learner.shape,
        rollouts=rollouts,
        validator=engines,
        explorer_filter=make_filter(cfg, inputs, rollouts, sampling, progress),
        explorer_ahead=rollout.explorer_ahead,
        two_updates=rollout.two_updates,
        max_skipped=cfg.run.max_skipped,
        diversity_groups=cfg.logging.diversity_groups,
        recorder=recorder,
        stop=stop(),
        progress=progress,
        valid_sets=graded_sets(inputs.sets, cfg.rewards, decode),
    )


def make_limits(cfg: Config, pad_id: int) -> Limits:
    sequences = 1 if cfg.model.micro_batch_tokens else cfg.model.micro_batch_size
    return Limits(cfg.rollout.max_response_length, pad_id, cfg.model.tensor_model_parallel_size, sequences)


def make_sampler(
    cfg: Config, inputs: Inputs, rollouts: Rollouts, sampling: SamplingParams, progress: Progress
) -> GroupSampler:
    return GroupSampler(
        algorithm=cfg.algorithm,
        rollouts=rollouts,
        prompts=inputs.train.prompts,
        learner=sampling,
        explorers=[ExplorerRole(one.name, one.options.share, one.sampling(sampling)) for one in explorers_of(cfg)],
        run_seed=cfg.run.seed,
        progress=progress,
        shapes=sampling_shapes(cfg, inputs.models),
    )


def make_filter(
    cfg: Config, inputs: Inputs, rollouts: Rollouts, sampling: SamplingParams, progress: Progress
) -> DiversityFilter | None:
    if cfg.rollout.explorer_filter is ExplorerFilter.none:
        return None
    explorers = [one.sampling(sampling) for one in explorers_of(cfg)]
    shapes, candidates = sampling_shapes(cfg, inputs.models), cfg.rollout.filter_candidates
    return DiversityFilter(rollouts, sampling, cfg.run.seed, progress, shapes, explorers, candidates)


def collective_timeout_s(engine: EngineConfig) -> float:
    """How long a rank waits for the others in one collective; longer than any of them is silent because of its engine.

    While engines start, sample, sleep or are started again, the ranks exchange signs of life (`Ranks.work`). Only a
    refit goes on between collectives of the actor. There a rank waits for its server twice at most, for the last bucket
    and for the end, and may find it lost.
    """
    return max(SHORTEST_TIMEOUT_S, 2 * engine.update_s + LOST_SERVER_S)


def load_inputs(cfg: Config, models: Models, early: Early | None = None) -> Inputs:
    """Tokenizer, training and held-out prompts. Settles T_mix in `cfg`, by which stored explorers are checked.

    `early` has the rows; None: they are read here.

    Raises UserError if explorer and learner cannot share tokens, or if there are too few prompts for one step.
    """
    keep_t_mix(cfg)
    tokenizer = models.learner.tokenizer
    for explorer in filter(None, models.explorers):
        check_same_tokenizer(models.learner, explorer)
    early = early or read_early(cfg)
    longest = cfg.rollout.max_prompt_length
    train, valid = load_prompts(cfg.data, tokenizer, longest, "train", read=early.train), PromptSet([], 0)
    if early.valid is not None:
        valid = load_prompts(cfg.data, tokenizer, longest, "valid", read=early.valid)
    if len(train.prompts) < cfg.algorithm.prompts_per_step:
        raise UserError(
            f"algorithm.prompts_per_step={cfg.algorithm.prompts_per_step}, but the data set has only "
            f"{len(train.prompts)} prompts ({train.filtered} over rollout.max_prompt_length={longest} were left out); "
            "lower it or add prompts"
        )
    learner = learner_sampling(cfg, models.learner)
    sampling = [learner, *(one.sampling(learner) for one in explorers_of(cfg))]
    check_stores(cfg, train.prompts, tokenizer_hash(models.learner), dict(enumerate(sampling)))
    says = os.environ.get("RANK", "0") == "0"  # one of torchrun's ranks is enough
    warnings = start_warnings(cfg.data, cfg.rewards, tokenizer, [train, valid]) if says else []
    sets = load_sets(cfg, models.learner)
    identity = identity_of(cfg, models.learner, train, valid, sets, early.reward_source)
    return Inputs(models, train, valid, sets, warnings, identity)


def learner_sampling(cfg: Config, learner: Model) -> SamplingParams:
    """How the learner samples in training."""
    rollout = cfg.rollout
    return SamplingParams(
        rollout.max_response_length, learner.stop_token_ids, rollout.temperature, rollout.top_p, rollout.top_k
    )


def open_run_dir(cfg: Config, identity: Identity) -> tuple[RunDir, Checkpoint | None]:
    """Rank 0 opens the run directory. Every rank gets the outcome, a UserError included. Collective."""
    outcome: list[Any] = [None]
    if torch.distributed.get_rank() == 0:
        try:
            check_same_identity(Path(cfg.run.dir), identity, cfg.run.allow_changed)
            run_dir, resumed = create_run_dir(cfg.run.dir, cfg.run.resume, resolved_yaml(cfg))
            step = None if resumed is None else resumed.step
            for line in settle_identity(run_dir.path, identity, cfg.run.allow_changed, step):
                say_on_stderr(line)
            outcome = [(run_dir, resumed)]
        except UserError as error:
            outcome = [error]
    torch.distributed.broadcast_object_list(outcome, 0)
    if isinstance(outcome[0], UserError):
        raise outcome[0]
    opened: tuple[RunDir, Checkpoint | None] = outcome[0]
    return opened


def keep_t_mix(cfg: Config) -> None:
    """A T_mix of null becomes that of the run that goes on, so that other steps do not change the past schedule."""
    begun = begun_config(cfg.run.dir)
    if begun is not None and cfg.algorithm.schedule.t_mix is None:
        cfg.algorithm.schedule.t_mix = t_mix_of(begun)


def make_actor(cfg: Config, learner: Model) -> S2LActor:
    from s2l_nemo.actor.build import build_actor

    per_update = cfg.algorithm.mini_batch_prompts or cfg.algorithm.prompts_per_step
    return build_actor(
        cfg.model,
        learner,
        num_nodes=cfg.trainer.num_nodes,
        sequence_length=cfg.rollout.max_prompt_length + cfg.rollout.max_response_length,
        global_batch_size=per_update * cfg.algorithm.group_size,
        optimizer_steps=optimizer_steps(cfg),
        refit_bucket_bytes=cfg.rollout.refit_bucket_mb * 2**20,
        seed=cfg.run.seed,
        keeps_reference=cfg.algorithm.kl_coef > 0,
    )


def make_rollouts(
    cfg: Config,
    models: Models,
    actor: S2LActor,
    run_dir: RunDir,
    grading: Grading,
    stores: Mapping[int, RolloutEngine],
) -> Rollouts:
    """Engines of this rank, with those of stored explorers by source.

    If they are servers, the first ranks of each node start some and speak to them.
    """
    served = ENGINES[cfg.engine.kind].served
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    local = int(os.environ["LOCAL_RANK"])
    replica, replicas = actor.data_parallel()
    everyone: list[Any] = [None] * world
    torch.distributed.all_gather_object(everyone, (not served or local < cfg.engine.replicas_per_node, replica))
    leads, replica_of = zip(*everyone, strict=True)
    factory = EngineFactory(
        config=cast(EngineConfig, OmegaConf.to_object(cast(Any, cfg.engine))),
        precision=cfg.model.precision,
        device=actor.device,
        max_batch_rows=cfg.rollout.max_batch_rows,
        max_sequence_length=cfg.rollout.max_prompt_length + cfg.rollout.max_response_length,
        servers=Servers(local, run_dir.path / "engines", rank) if leads[rank] else None,
    )
    members = [[one for one in range(world) if replica_of[one] == replica] for replica in range(replicas)]
    timeout = datetime.timedelta(seconds=collective_timeout_s(cfg.engine))
    own_group, _ = torch.distributed.new_subgroups_by_enumeration(members, timeout=timeout, backend="gloo")
    ranks = Ranks(rank, tuple(one for one in range(world) if leads[one]), replica_of, own_group)

    sleeps = served and cfg.engine.placement is Placement.colocated
    if sleeps:  # engines start where they will sample: on devices that the actor has left as far as it can
        actor.release_memory()
        actor.release_cache()
        ranks.barrier()

    def make() -> tuple[list[RolloutEngine], LearnerEngine]:
        if cfg.rollout.replay is not None and not cfg.validation.prompts:
            return [], AbsentLearnerEngine()
        return make_engines(factory, explorers=list(filter(None, models.explorers)), learner=models.learner)

    live = [source for source, model in enumerate(models.explorers, start=1) if model is not None]
    explorers, learner = ranks.work(make)[0] if served else make()
    return Rollouts(
        dict(zip(live, explorers, strict=True)) | {**stores},
        learner,
        actor,
        ranks,
        grading,
        concurrent=served,
        sleeps=sleeps,
    )


def pad_token_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """Any id will do: padding is masked and comes after every real token."""
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0)


def make_recorder(
    cfg: Config,
    run_dir: RunDir,
    resumed: Checkpoint | None,
    identity: dict[str, Any],
    decode: Callable[[Sequence[int]], str],
    actor: S2LActor,
    ranks: Ranks,
    state: dict[str, Any],
) -> Recorder:
    writer = console = None
    if ranks.rank == 0:
        writer = MetricsWriter(
            run_dir,
            wandb_project=cfg.logging.wandb_project,
            wandb_mode=cfg.logging.wandb_mode,
            resume_step=resumed.step if resumed else None,
        )
        console = StepConsole(cfg.algorithm.steps, start_step=state["step"])
        console.__enter__()
    checkpoint_bytes = actor.shape.parameters * CHECKPOINT_BYTES_PER_PARAMETER
    check_free_space(run_dir.path, checkpoint_bytes)
    return Recorder(
        run_dir=run_dir,
        checkpoint=cfg.checkpoint,
        logging=cfg.logging,
        identity=identity,
        sources=["learner", *(one.name for one in explorers_of(cfg))],
        decode=decode,
        ranks=ranks,
        checkpoint_bytes=checkpoint_bytes,
        writer=writer,
        console=console,
        wanted=wanted(cfg.data, cfg.rewards),
        seconds_before=state["seconds"],
    )


def shown(explorer: Explorer) -> str:
    """Where an explorer comes from, for a person."""
    stored = explorer.options.source is ExplorerSource.store
    return f"{explorer.options.path}{' (stored rollouts)' if stored else ''}"


def announce(recorder: Recorder, cfg: Config, inputs: Inputs, resumed: Checkpoint | None) -> None:
    """Prints the facts of the run, on rank 0 alone."""
    if recorder.console is None:
        return
    train, valid = inputs.train, inputs.valid
    model = cfg.model
    replicas = torch.distributed.get_world_size() // (
        model.tensor_model_parallel_size * model.pipeline_model_parallel_size
    )
    limit = cfg.rollout.max_prompt_length
    facts: dict[str, object] = {
        "learner": model.path,
        **{one.name: shown(one) for one in explorers_of(cfg)},
        **({} if explorers_of(cfg) else {"explorer": "none (plain GRPO)"}),
        **({} if cfg.rollout.replay is None else {"replay": f"{cfg.rollout.replay}, in the place of the learner"}),
        "ranks": f"TP {model.tensor_model_parallel_size} x PP {model.pipeline_model_parallel_size} x DP {replicas} "
        f"on {'GPU' if torch.cuda.is_available() else 'CPU'}, {model.precision.value}",
        "batch": f"{cfg.algorithm.prompts_per_step} prompts x {cfg.algorithm.group_size} samples a step",
        "schedule": f"{cfg.algorithm.schedule.name}, {cfg.algorithm.steps} steps",
        "data": f"{len(train.prompts)} training prompts{train.left_out(limit)}, "
        f"{len(valid.prompts)} held out{valid.left_out(limit)}",
        **set_facts(inputs.sets),
        "run": f"{cfg.run.dir}, {f'continues after step {resumed.step}' if resumed else 'new'}, seed {cfg.run.seed}",
    }
    recorder.console.header("S2L-PO", facts)
    for warning in inputs.warnings:
        recorder.say(f"warning: {warning}")
