"""Rules that no single type can express. All run before any model loads; each names the key, its value and the fix."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import OmegaConf

from s2l_nemo.algorithm.schedule import SCHEDULES, make_schedule
from s2l_nemo.config.schema import Accelerator, Config
from s2l_nemo.engines.kinds import ENGINES
from s2l_nemo.engines.options import Placement
from s2l_nemo.errors import UserError
from s2l_nemo.models.files import read_config_json, read_shape
from s2l_nemo.models.precision import Precision

Rule = tuple[Callable[[Any], bool], str]


def at_least(low: float) -> Rule:
    return lambda value: low <= value < math.inf, f"at least {low}"


def above(low: float) -> Rule:
    return lambda value: low < value < math.inf, f"greater than {low}"


def in_range(low: float, high: float) -> Rule:
    return lambda value: low <= value <= high, f"from {low} to {high}"


POSITIVE_COUNT, COUNT, NON_NEGATIVE, POSITIVE = at_least(1), at_least(0), at_least(0), above(0)
RATE: Rule = (lambda value: 0 <= value < 1, "at least 0 and less than 1")

RANGES: dict[str, Rule] = {
    "run.dir": (lambda value: bool(value.strip()), "the path of a folder"),
    "run.seed": COUNT,
    "trainer.devices": POSITIVE_COUNT,
    "trainer.num_nodes": POSITIVE_COUNT,
    "model.tensor_model_parallel_size": POSITIVE_COUNT,
    "model.pipeline_model_parallel_size": POSITIVE_COUNT,
    "model.micro_batch_size": POSITIVE_COUNT,
    "model.optim.lr": POSITIVE,
    "model.optim.warmup_steps": COUNT,
    "model.optim.min_lr": NON_NEGATIVE,
    "model.optim.weight_decay": NON_NEGATIVE,
    "model.optim.beta1": RATE,
    "model.optim.beta2": RATE,
    "model.optim.eps": POSITIVE,
    "model.optim.clip_grad": POSITIVE,
    "algorithm.steps": POSITIVE_COUNT,
    "algorithm.prompts_per_step": POSITIVE_COUNT,
    "algorithm.group_size": at_least(2),
    "algorithm.mini_batch_prompts": POSITIVE_COUNT,
    "algorithm.optimizer_passes": POSITIVE_COUNT,
    "algorithm.importance_cap": at_least(1),
    "algorithm.importance_floor": in_range(0, 1),
    "algorithm.shaping_gamma": POSITIVE,
    "algorithm.clip_low": in_range(0, 1),
    "algorithm.clip_high": NON_NEGATIVE,
    "algorithm.dual_clip": above(1),
    "algorithm.kl_coef": NON_NEGATIVE,
    "algorithm.explorer_loss_coef": NON_NEGATIVE,
    "algorithm.adv_eps": NON_NEGATIVE,
    "rollout.temperature": POSITIVE,
    "rollout.top_p": (lambda value: 0 < value <= 1, "greater than 0 and at most 1"),
    "rollout.top_k": COUNT,
    "rollout.max_prompt_length": POSITIVE_COUNT,
    "rollout.max_response_length": POSITIVE_COUNT,
    "rollout.max_batch_rows": POSITIVE_COUNT,
    "rollout.refit_bucket_mb": POSITIVE_COUNT,
    "data.arithmetic.digits": POSITIVE_COUNT,
    "data.arithmetic.terms": at_least(2),
    "data.arithmetic.train_prompts": POSITIVE_COUNT,
    "data.reasoning_gym.train_prompts": POSITIVE_COUNT,
    "engine.startup_s": POSITIVE,
    "engine.request_s": POSITIVE,
    "engine.update_s": POSITIVE,
    "engine.max_restarts": COUNT,
    "engine.replicas_per_node": POSITIVE_COUNT,
    "engine.tensor_parallel_size": POSITIVE_COUNT,
    "engine.memory_fraction": (lambda value: 0 < value < 1, "greater than 0 and less than 1"),
    "rewards.workers": POSITIVE_COUNT,
    "rewards.cpu_s": POSITIVE,
    "rewards.wall_s": POSITIVE,
    "rewards.memory_mb": at_least(256),
    "rewards.batch_s": POSITIVE,
    "validation.every": COUNT,
    "validation.prompts": POSITIVE_COUNT,
    "validation.samples": POSITIVE_COUNT,
    "validation.temperature": NON_NEGATIVE,
    "checkpoint.every": POSITIVE_COUNT,
    "checkpoint.keep": COUNT,
    "logging.rollouts_every": COUNT,
    "logging.wandb_mode": (lambda value: value in ("online", "offline", "disabled"), "online, offline or disabled"),
}


def check_config(cfg: Config) -> None:
    """Raises UserError for the first value that is out of range or does not fit the others. Reads no file."""
    check_ranges(cfg, RANGES)
    _check_parallelism(cfg)
    _check_batches(cfg)
    _check_algorithm(cfg)
    _check_platform(cfg)
    _check_data(cfg)
    _check_engine(cfg)


def check_ranges(cfg: Any, ranges: Mapping[str, Rule]) -> None:
    """Raises UserError for the first value of an OmegaConf object that breaks its rule; null is always allowed."""
    for key, (holds, wanted) in ranges.items():
        value = OmegaConf.select(cfg, key)
        if value is not None and not holds(value):
            raise UserError(f"{key}={value}: must be {wanted}")


def check_model_files(cfg: Config) -> None:
    """Reads the config.json of learner and explorer, and no weights.

    Raises UserError where a model is missing, the model is not supported, the parallel sizes do not divide it, the
    sequences are too long for it, or the two models do not belong to one family.
    """
    learner = read_config_json("model.path", cfg.model.path)
    shape = read_shape("model.path", cfg.model.path)
    tp, pp = cfg.model.tensor_model_parallel_size, cfg.model.pipeline_model_parallel_size
    for name in ("num_attention_heads", "num_key_value_heads", "vocab_size", "intermediate_size"):
        if learner[name] % tp:
            raise UserError(
                f"model.tensor_model_parallel_size={tp} does not divide {name}={learner[name]} of {cfg.model.path}: "
                f"choose a divisor of {learner[name]}"
            )
    if shape.layers % pp:
        raise UserError(
            f"model.pipeline_model_parallel_size={pp} does not divide num_hidden_layers={shape.layers} of "
            f"{cfg.model.path}: choose a divisor of {shape.layers}"
        )
    _check_length(cfg, cfg.model.path, shape.max_positions)
    if cfg.explorer.path is None or not SCHEDULES[cfg.algorithm.schedule.name].explores:
        return
    explorer = read_config_json("explorer.path", cfg.explorer.path)
    _check_length(cfg, cfg.explorer.path, read_shape("explorer.path", cfg.explorer.path).max_positions)
    for name in ("vocab_size", "eos_token_id"):
        if explorer.get(name) != learner.get(name):
            raise UserError(
                f"explorer.path={cfg.explorer.path} has {name}={explorer.get(name)}, model.path={cfg.model.path} has "
                f"{learner.get(name)}: choose two models of one family"
            )


def data_parallel_size(cfg: Config) -> int:
    """Number of model replicas: all ranks over TP x PP."""
    return (cfg.trainer.devices * cfg.trainer.num_nodes) // (
        cfg.model.tensor_model_parallel_size * cfg.model.pipeline_model_parallel_size
    )


def mini_batch_prompts(cfg: Config) -> int:
    """Prompts of one optimizer step, over all ranks."""
    return cfg.algorithm.mini_batch_prompts or cfg.algorithm.prompts_per_step


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
    sequences = mini // dp * cfg.algorithm.group_size
    if sequences % cfg.model.micro_batch_size:
        raise UserError(
            f"model.micro_batch_size={cfg.model.micro_batch_size} does not divide the {sequences} sequences of a "
            f"mini-batch on one rank ({mini} prompts / {dp} ranks x {cfg.algorithm.group_size} samples): "
            f"choose a divisor of {sequences}"
        )


def _check_algorithm(cfg: Config) -> None:
    algorithm, schedule = cfg.algorithm, cfg.algorithm.schedule
    make_schedule(schedule.name, steps=algorithm.steps, t_mix=schedule.t_mix, alpha=schedule.alpha)
    if cfg.explorer.path is None and SCHEDULES[schedule.name].explores:
        raise UserError(
            f"explorer.path=null with algorithm.schedule.name={schedule.name}: give the explorer's folder, "
            "or set algorithm.schedule.name=none"
        )
    if cfg.model.optim.min_lr > cfg.model.optim.lr:
        raise UserError(
            f"model.optim.min_lr={cfg.model.optim.min_lr} is above model.optim.lr={cfg.model.optim.lr}: lower it"
        )


def _check_platform(cfg: Config) -> None:
    if cfg.trainer.accelerator != Accelerator.cpu:
        return
    if cfg.model.precision == Precision.bf16:
        raise UserError("model.precision=bf16 needs a GPU, but trainer.accelerator=cpu: set model.precision=fp32")
    if cfg.model.transformer_engine:
        raise UserError(
            "model.transformer_engine=true needs a GPU, but trainer.accelerator=cpu: set model.transformer_engine=false"
        )


def _check_data(cfg: Config) -> None:
    if (cfg.data.path is None) != (cfg.data.valid_path is None):
        given, absent = ("path", "valid_path") if cfg.data.valid_path is None else ("valid_path", "path")
        raise UserError(f"data.{given}={getattr(cfg.data, given)} without data.{absent}: give both")


def _check_length(cfg: Config, path: str, max_positions: int) -> None:
    prompt, response = cfg.rollout.max_prompt_length, cfg.rollout.max_response_length
    if prompt + response > max_positions:
        raise UserError(
            f"rollout.max_prompt_length={prompt} + rollout.max_response_length={response} is more than the "
            f"{max_positions} positions of {path}: lower one of them by {prompt + response - max_positions}"
        )


def _check_engine(cfg: Config) -> None:
    engine, served = cfg.engine, ENGINES[cfg.engine.kind].served
    devices = {"engine.explorer_devices": engine.explorer_devices, "engine.learner_devices": engine.learner_devices}
    if cfg.explorer.path is None:
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
