"""Rules that no single type can express. All run before any model loads; each names the key, its value and the fix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from s2l_nemo.algorithm.options import ADVANTAGES, IMPORTANCE, Rejected, made
from s2l_nemo.algorithm.schedule import SCHEDULES, check_t_mix, make_schedule
from s2l_nemo.config.controls import check_controls, learner_explores
from s2l_nemo.config.explorers import explorers_of
from s2l_nemo.config.keys import all_keys
from s2l_nemo.config.mix import training_sources
from s2l_nemo.config.parts import data_parallel_size, mini_batch_prompts
from s2l_nemo.config.schema import (
    Accelerator,
    Config,
    DrawOrder,
    ExplorerConfig,
    ExplorerFilter,
    ExplorerSource,
    Task,
)
from s2l_nemo.config.validation import SetOptions, validation_metrics_of, validation_sets
from s2l_nemo.engines.kinds import ENGINES
from s2l_nemo.engines.options import EngineConfig, Placement
from s2l_nemo.errors import UserError
from s2l_nemo.models.open import Model, open_model


def check_config(cfg: Config) -> None:
    """Raises UserError for the first value that is out of range or does not fit the others. Reads no file."""
    check_ranges(cfg, Config)
    _check_import_paths(cfg)
    _check_parallelism(cfg)
    _check_batches(cfg)
    _check_algorithm(cfg)
    _check_explorers(cfg)
    _check_platform(cfg)
    _check_data(cfg)
    _check_engine(cfg)
    check_controls(cfg)
    _check_two_updates(cfg)
    _check_ahead(cfg)
    _check_replay(cfg)
    _check_logprobs(cfg)
    _check_validation(cfg)


def check_ranges(cfg: Any, schema: type, prefix: str = "") -> None:
    """Raises UserError for the first value of an OmegaConf object of type `schema` that is outside its key's range.

    `prefix` stands before the names of keys in the message.
    """
    for name, key in all_keys(schema).items():
        value, allowed = OmegaConf.select(cfg, name), key.facts.range
        if value is not None and allowed is not None and not allowed.holds(value):
            raise UserError(f"{prefix}{name}={value}: must be {allowed.wanted}")


@dataclass(frozen=True)
class Models:
    """The models of a run, opened."""

    learner: Model
    explorers: tuple[Model | None, ...]  # as `explorers_of` has them; None: its rollouts are stored


def check_model_files(cfg: Config) -> Models:
    """Opens learner and explorer. Reads their config.json and no weights.

    Raises UserError if a model is missing or not supported, the parallel sizes do not divide the learner, the sequences
    are too long for a model that samples, or the two models do not belong to one family.
    """
    learner = open_model("model.path", cfg.model.path)
    tp, pp = cfg.model.tensor_model_parallel_size, cfg.model.pipeline_model_parallel_size
    for name in ("num_attention_heads", "num_key_value_heads", "vocab_size", "intermediate_size"):
        if learner.config[name] % tp:
            raise UserError(
                f"model.tensor_model_parallel_size={tp} does not divide {name}={learner.config[name]} of "
                f"{learner.path}: choose a divisor of {learner.config[name]}"
            )
    layers = learner.shape.layers
    if layers % pp:
        raise UserError(
            f"model.pipeline_model_parallel_size={pp} does not divide num_hidden_layers={layers} of {learner.path}: "
            f"choose a divisor of {layers}"
        )
    _check_length(cfg, learner)
    explorers = [
        open_model(f"{one.key}.path", str(one.options.path)) if one.options.source is ExplorerSource.live else None
        for one in explorers_of(cfg)
    ]
    if SCHEDULES[cfg.algorithm.schedule.name].explores:
        for explorer in filter(None, explorers):
            _check_length(cfg, explorer)
            _check_one_family(learner, explorer)
    return Models(learner, tuple(explorers))


def _check_import_paths(cfg: Any) -> None:
    """Imports what the user names by `package.module:name`, so that a mistake shows before any model loads."""
    for name, key in all_keys().items():
        value = OmegaConf.select(cfg, name)
        if key.facts.choices is not None and ":" in value:
            key.facts.choices[value]
    for registry, value in ((IMPORTANCE, cfg.algorithm.importance), (ADVANTAGES, cfg.algorithm.advantage)):
        if ":" in value:
            made(registry[value], cfg.algorithm)


def _check_parallelism(cfg: Config) -> None:
    ranks = cfg.trainer.devices * cfg.trainer.num_nodes
    tp, pp = cfg.model.tensor_model_parallel_size, cfg.model.pipeline_model_parallel_size
    if ranks % (tp * pp):
        raise UserError(
            f"model.tensor_model_parallel_size={tp} x model.pipeline_model_parallel_size={pp} does not divide the "
            f"{ranks} ranks (trainer.devices x trainer.num_nodes): set trainer.devices to a multiple of {tp * pp}"
        )


def _check_batches(cfg: Config) -> None:
    prompts, mini, dp = cfg.algorithm.prompts_per_step, mini_batch_prompts(cfg), data_parallel_size(cfg)
    key = "algorithm.prompts_per_step" if cfg.algorithm.mini_batch_prompts is None else "algorithm.mini_batch_prompts"
    if prompts % mini:
        raise UserError(
            f"algorithm.mini_batch_prompts={mini} does not divide algorithm.prompts_per_step={prompts}: "
            f"choose a divisor of {prompts}"
        )
    if mini % dp:
        raise UserError(
            f"{key}={mini} cannot be shared by {dp} data-parallel ranks (all ranks over TP x PP): "
            f"choose a multiple of {dp}"
        )
    longest = cfg.rollout.max_prompt_length + cfg.rollout.max_response_length
    if cfg.model.micro_batch_tokens is not None:
        if cfg.model.micro_batch_tokens < longest:
            raise UserError(
                f"model.micro_batch_tokens={cfg.model.micro_batch_tokens} is less than the {longest} tokens of a "
                f"sequence (rollout.max_prompt_length + rollout.max_response_length): give at least {longest}"
            )
        return
    sequences = mini // dp * cfg.algorithm.group_size
    if sequences % cfg.model.micro_batch_size:
        raise UserError(
            f"model.micro_batch_size={cfg.model.micro_batch_size} does not divide the {sequences} sequences of a "
            f"mini-batch on one rank ({mini} prompts / {dp} ranks x {cfg.algorithm.group_size} samples): "
            f"choose a divisor of {sequences}"
        )


def _check_algorithm(cfg: Config) -> None:
    algorithm, schedule = cfg.algorithm, cfg.algorithm.schedule
    check_t_mix(schedule, algorithm.steps)
    make_schedule(schedule, algorithm.steps)
    if not explorers_of(cfg) and SCHEDULES[schedule.name].explores and not learner_explores(cfg):
        raise UserError(
            f"explorer.path=null with algorithm.schedule.name={schedule.name}: give the explorer's folder, "
            "or set algorithm.schedule.name=none"
        )
    if algorithm.rejected == Rejected.drop and algorithm.drop_zero_variance:
        raise UserError(
            "algorithm.rejected=drop with algorithm.drop_zero_variance=true: groups without log-probs cannot say what "
            "they reject, set algorithm.drop_zero_variance=false"
        )
    limit = cfg.rollout.max_response_length
    if algorithm.overlong_buffer is not None and algorithm.overlong_buffer > limit:
        raise UserError(
            f"algorithm.overlong_buffer={algorithm.overlong_buffer} is more than rollout.max_response_length={limit}: "
            f"choose at most {limit}"
        )
    if cfg.model.optim.min_lr > cfg.model.optim.lr:
        raise UserError(
            f"model.optim.min_lr={cfg.model.optim.min_lr} is above model.optim.lr={cfg.model.optim.lr}: lower it"
        )


def _check_explorers(cfg: Config) -> None:
    algorithm, limit = cfg.algorithm, cfg.rollout.max_response_length
    for explorer in explorers_of(cfg):
        options = explorer.options
        check_ranges(options, ExplorerConfig, f"{explorer.key}.")
        if options.path is None:
            raise UserError(f"{explorer.key} has no path: give {explorer.key}.path=FOLDER")
        if options.source is ExplorerSource.live and (options.samples is not None or options.draw is DrawOrder.stored):
            raise UserError(
                f"{explorer.key}.samples and {explorer.key}.draw are for {explorer.key}.source=store, and it is live: "
                "leave them out"
            )
        if options.max_response_length is not None and options.max_response_length > limit:
            raise UserError(
                f"{explorer.key}.max_response_length={options.max_response_length} is more than "
                f"rollout.max_response_length={limit}, which bounds every answer: lower it, or raise the other"
            )
    if algorithm.rescue_first is None:
        return
    if algorithm.rescue_first >= algorithm.group_size:
        raise UserError(
            f"algorithm.rescue_first={algorithm.rescue_first} leaves no sample of a group of algorithm.group_size="
            f"{algorithm.group_size} to decide about: lower it"
        )
    if not SCHEDULES[algorithm.schedule.name].explores:
        raise UserError(
            f"algorithm.rescue_first={algorithm.rescue_first} with algorithm.schedule.name={algorithm.schedule.name}: "
            "no explorer may sample then; choose another schedule, such as constant"
        )
    if cfg.rollout.explorer_filter is not ExplorerFilter.none:
        raise UserError(
            f"algorithm.rescue_first={algorithm.rescue_first} with rollout.explorer_filter="
            f"{cfg.rollout.explorer_filter.name}: that control compares whole groups; choose one of them"
        )


def _check_platform(cfg: Config) -> None:
    if cfg.trainer.accelerator != Accelerator.cpu:
        return
    if cfg.model.transformer_engine:
        raise UserError(
            "model.transformer_engine=true needs a GPU, but trainer.accelerator=cpu: set model.transformer_engine=false"
        )


def _check_data(cfg: Config) -> None:
    data = cfg.data
    if data.mix and data.path is not None:
        raise UserError(f"data.path={data.path} with data.mix={','.join(data.mix)}: choose one of them")
    if data.mix and data.task is not Task.arithmetic:
        raise UserError(f"data.task={data.task.name} with data.mix={','.join(data.mix)}: choose one of them")
    read = bool(training_sources(data))
    if read and data.valid_path is None:
        given = f"data.mix={','.join(data.mix)}" if data.mix else f"data.path={data.path}"
        raise UserError(f"{given} without data.valid_path: give both")
    if not read and data.valid_path is not None:
        raise UserError(f"data.valid_path={data.valid_path} without data.path: give both")


def _check_length(cfg: Config, model: Model) -> None:
    prompt, response = cfg.rollout.max_prompt_length, cfg.rollout.max_response_length
    positions = model.shape.max_positions
    if prompt + response > positions:
        raise UserError(
            f"rollout.max_prompt_length={prompt} + rollout.max_response_length={response} is more than the "
            f"{positions} positions of {model.path}: lower one of them by {prompt + response - positions}"
        )


def _check_one_family(learner: Model, explorer: Model) -> None:
    """The smaller models of Qwen2.5 have fewer rows for the same tokens, which the learner then has, too."""
    for name in ("vocab_size", "eos_token_id"):
        mine, its = learner.config.get(name), explorer.config.get(name)
        if mine != its and (name != "vocab_size" or explorer.shape.vocab > learner.shape.vocab):
            raise UserError(
                f"explorer.path={explorer.path} has {name}={its}, model.path={learner.path} has {mine}: "
                "choose two models of one family"
            )


def _check_engine(cfg: Config) -> None:
    engine, served = cfg.engine, ENGINES[cfg.engine.kind].served
    devices = {"engine.explorer_devices": engine.explorer_devices, "engine.learner_devices": engine.learner_devices}
    if all(one.options.source is ExplorerSource.store for one in explorers_of(cfg)):  # or there are none
        del devices["engine.explorer_devices"]
    separate = engine.placement is Placement.separate
    if separate and not served:
        raise UserError(
            f"engine.placement=separate with engine.kind={engine.kind}: engines in the trainer have its devices"
        )
    for key, value in devices.items():
        if separate and value is None:
            raise UserError(
                f"engine.placement=separate without {key}: give the GPUs of that server, such as '{key}=\"6,7\"'"
            )
        if value is not None and not separate:
            raise UserError(f"{key}={value} with engine.placement=colocated: set engine.placement=separate")
        gpus = engine.replicas_per_node * engine.tensor_parallel_size
        if value is not None and len(set(value.split(","))) != gpus:
            raise UserError(
                f"{key}={value}: give {gpus} different GPUs, engine.replicas_per_node={engine.replicas_per_node} x "
                f"engine.tensor_parallel_size={engine.tensor_parallel_size}"
            )
    if served and engine.replicas_per_node > cfg.trainer.devices:
        raise UserError(
            f"engine.replicas_per_node={engine.replicas_per_node} is more than trainer.devices={cfg.trainer.devices}: "
            "each server is spoken to by a rank of its own"
        )
    if engine.python is not None and not served:
        raise UserError(
            f"engine.python={engine.python} with engine.kind={engine.kind}: only servers have an interpreter"
        )


def _check_two_updates(cfg: Config) -> None:
    algorithm, rollout = cfg.algorithm, cfg.rollout
    if not rollout.two_updates:
        if algorithm.explorer_mini_batch is not None:
            raise UserError(
                f"algorithm.explorer_mini_batch={algorithm.explorer_mini_batch} without rollout.two_updates=true: "
                "explorer and learner share their mini-batches; set algorithm.mini_batch_prompts"
            )
        return
    others = {
        "algorithm.rescue_first": algorithm.rescue_first,
        "algorithm.refill_rounds": algorithm.refill_rounds,
        "algorithm.drop_zero_variance": algorithm.drop_zero_variance,
        "rollout.explorer_ahead": rollout.explorer_ahead,
    }
    for name, value in others.items():
        if value:
            raise UserError(f"rollout.two_updates=true with {name}={value}: choose one of them")
    if rollout.explorer_filter is not ExplorerFilter.none or algorithm.schedule.name == "adaptive":
        other = (
            f"algorithm.schedule.name={algorithm.schedule.name}"
            if rollout.explorer_filter is ExplorerFilter.none
            else f"rollout.explorer_filter={rollout.explorer_filter.name}"
        )
        raise UserError(f"rollout.two_updates=true with {other}: choose one of them")
    if cfg.model.micro_batch_tokens is None:
        raise UserError(
            "rollout.two_updates=true without model.micro_batch_tokens: its mini-batches have different numbers of "
            "rows, so cut them by tokens"
        )
    dp = data_parallel_size(cfg)
    if algorithm.explorer_mini_batch is not None and algorithm.explorer_mini_batch % dp:
        raise UserError(
            f"algorithm.explorer_mini_batch={algorithm.explorer_mini_batch} cannot be shared by {dp} data-parallel "
            f"ranks: choose a multiple of {dp}"
        )


def _check_ahead(cfg: Config) -> None:
    if not cfg.rollout.explorer_ahead:
        return
    if cfg.engine.placement is not Placement.separate:
        raise UserError(
            f"rollout.explorer_ahead=true with engine.placement={cfg.engine.placement.name}: the actor trains where "
            "engines sample; set engine.placement=separate, with an engine.kind that runs in servers"
        )
    if cfg.algorithm.rescue_first is not None:
        raise UserError(
            f"rollout.explorer_ahead=true with algorithm.rescue_first={cfg.algorithm.rescue_first}: nobody knows ahead "
            "which groups the explorer is to rescue; choose one of them"
        )


def _check_replay(cfg: Config) -> None:
    rollout = cfg.rollout
    if rollout.replay is None:
        return
    live = next((one.key for one in explorers_of(cfg) if one.options.source is ExplorerSource.live), None)
    if live is not None:
        raise UserError(
            f"rollout.replay={rollout.replay} with {live}.source=live: nothing is sampled in such a run; set "
            f"{live}.source=store, or for plain GRPO {live}.path=null"
        )
    if rollout.explorer_filter is not ExplorerFilter.none:
        raise UserError(
            f"rollout.replay={rollout.replay} with rollout.explorer_filter={rollout.explorer_filter.name}: the learner "
            "would have to sample for that control; choose one of them"
        )
    if rollout.explorer_ahead:
        raise UserError(f"rollout.replay={rollout.replay} with rollout.explorer_ahead=true: drop one of them")


def _check_logprobs(cfg: Config) -> None:
    rollout = cfg.rollout
    sections = [("rollout", rollout.top_p, rollout.top_k)] if rollout.replay is None else []  # a store has them right
    sections += [
        (one.key, one.options.top_p or 1.0, one.options.top_k or 0)
        for one in explorers_of(cfg)
        if one.options.source is ExplorerSource.live
    ]
    for section, top_p, top_k in sections:
        check_logprobs(section, top_p, top_k, cfg.engine.kind)


def check_logprobs(section: str, top_p: float, top_k: int, kind: str) -> None:
    """Raises UserError if an engine of this kind gives log-probs of another distribution than it samples from.

    They go into `logprob_diff` of every run, and into the losses of most importance rules.
    """
    if (top_p < 1 or top_k > 0) and not ENGINES[kind].renormalises_logprobs:
        key = f"{section}.top_p={top_p}" if top_p < 1 else f"{section}.top_k={top_k}"
        raise UserError(
            f"{key} with engine.kind={kind}: its log-probs are of all tokens, not of those that it samples among: "
            f"set {section}.top_p=1 and {section}.top_k=0, or another engine.kind"
        )


def _check_validation(cfg: Config) -> None:
    room = cfg.rollout.max_prompt_length + cfg.rollout.max_response_length
    for one in validation_sets(cfg):
        check_ranges(one.options, SetOptions, f"{one.key}.")
        if one.options.max_tokens is not None and one.options.max_tokens >= room:
            raise UserError(
                f"{one.key}.max_tokens={one.options.max_tokens} leaves no room for a prompt in the {room} tokens of an "
                "engine (rollout.max_prompt_length + rollout.max_response_length): lower it"
            )
        if one.options.temperature == 0 and (one.options.k or cfg.validation.samples) > 1:
            raise UserError(f"{one.key}.temperature=0: greedy samples are all equal, set {one.key}.k=1")
    metric, known = cfg.checkpoint.best, validation_metrics_of(cfg)
    if metric is not None and metric not in known:
        raise UserError(f"checkpoint.best={metric} is no metric of a validation of this run: give {' or '.join(known)}")
    if metric is not None and not cfg.validation.every:
        raise UserError(f"checkpoint.best={metric} with validation.every=0: one validation has no best, raise it")


def check_lone_engine(engine: EngineConfig) -> None:
    """Raises UserError for keys that do not fit engines of a frozen model, without a trainer beside them."""
    served = ENGINES[engine.kind].served
    if engine.placement is not Placement.colocated or engine.learner_devices is not None:
        raise UserError(
            "engine.placement=separate and engine.learner_devices: there is no trainer and no learner here; name the "
            "engine's GPUs with engine.explorer_devices"
        )
    if engine.explorer_devices is not None:
        wanted = engine.replicas_per_node * engine.tensor_parallel_size
        gpus = len(set(engine.explorer_devices.split(",")))
        if not served or gpus != wanted:
            raise UserError(
                f"engine.explorer_devices={engine.explorer_devices} with engine.kind={engine.kind}: give servers "
                f"{wanted} GPUs, engine.replicas_per_node x engine.tensor_parallel_size, or CUDA_VISIBLE_DEVICES to an "
                "engine in this process"
            )
    if engine.python is not None and not served:
        raise UserError(
            f"engine.python={engine.python} with engine.kind={engine.kind}: only servers have an interpreter"
        )
    if engine.replicas_per_node > 1 and not served:
        raise UserError(
            f"engine.replicas_per_node={engine.replicas_per_node} with engine.kind={engine.kind}: this process holds "
            "one engine; choose a kind that runs in servers"
        )
