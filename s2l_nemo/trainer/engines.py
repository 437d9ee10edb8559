"""The two engines of a training run."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import OmegaConf

from s2l_nemo.config.checks import Models
from s2l_nemo.config.schema import Config, EngineConfig, EngineKind
from s2l_nemo.engines.build import make_engine
from s2l_nemo.engines.embedded.engine import EmbeddedEngine, EmbeddedLearnerEngine
from s2l_nemo.engines.protocol import LearnerEngine, RolloutEngine
from s2l_nemo.engines.served.client import start_server
from s2l_nemo.trainer.rollouts import AbsentEngine, AbsentLearnerEngine
from s2l_nemo.types import Source


def make_engines(
    cfg: Config, models: Models, device: torch.device, *, replica: int | None, logs: Path
) -> tuple[RolloutEngine | None, LearnerEngine]:
    """The frozen explorer, None for plain GRPO, and the learner's engine.

    Embedded, a copy of each on every rank; else the servers of this number on the node, None for a rank that speaks to
    none.
    """
    if cfg.engine.kind is EngineKind.embedded:
        return _embedded(cfg, models, device)
    if replica is None:
        return AbsentEngine() if cfg.explorer.path is not None else None, AbsentLearnerEngine()
    config = with_devices(cast(EngineConfig, OmegaConf.to_object(cfg.engine)), replica, on_gpu=device.type == "cuda")  # type: ignore[arg-type]
    settings: dict[str, Any] = {
        "dtype": cfg.model.precision,
        "device": torch.device(device.type),  # the first of the GPUs that the server sees
        "max_batch_rows": cfg.rollout.max_batch_rows,
        "max_sequence_length": cfg.rollout.max_prompt_length + cfg.rollout.max_response_length,
    }
    explorer = None
    if cfg.explorer.path is not None:
        log = logs / f"explorer_rank{os.environ['RANK']}.log"
        explorer = start_server(config, "explorer", "explorer.path", cfg.explorer.path, log=log, **settings)
    try:
        log = logs / f"learner_rank{os.environ['RANK']}.log"
        return explorer, start_server(config, "learner", "model.path", cfg.model.path, log=log, **settings)
    except BaseException:
        if explorer is not None:
            explorer.close()
        raise


def with_devices(config: EngineConfig, replica: int, *, on_gpu: bool) -> EngineConfig:
    """The configuration with the GPUs of one replica: its part of the lists, or of the node's GPUs where colocated."""
    first, count = replica * config.tensor_parallel_size, config.tensor_parallel_size

    def part(devices: str | None) -> str | None:
        if devices is not None:
            return ",".join(devices.split(",")[first : first + count])
        return ",".join(str(gpu) for gpu in range(first, first + count)) if on_gpu else None

    return replace(config, explorer_devices=part(config.explorer_devices), learner_devices=part(config.learner_devices))


def _embedded(cfg: Config, models: Models, device: torch.device) -> tuple[EmbeddedEngine | None, EmbeddedLearnerEngine]:
    settings: dict[str, Any] = {
        "device": device,
        "precision": cfg.model.precision,
        "max_batch_rows": cfg.rollout.max_batch_rows,
    }
    explorer = None
    if models.explorer is not None:
        explorer = make_engine(EmbeddedEngine, models.explorer, source=Source.EXPLORER, **settings)
    learner = make_engine(EmbeddedLearnerEngine, models.learner, source=Source.LEARNER, **settings)
    return explorer, learner
