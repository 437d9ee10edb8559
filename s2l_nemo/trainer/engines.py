"""The two engines of a training run."""

from __future__ import annotations

from typing import Any

import torch

from s2l_nemo.config.schema import Config
from s2l_nemo.engines import make_engine
from s2l_nemo.rollout.embedded import EmbeddedEngine, EmbeddedLearnerEngine
from s2l_nemo.types import Source


def make_engines(cfg: Config, device: torch.device) -> tuple[EmbeddedEngine | None, EmbeddedLearnerEngine]:
    """The frozen explorer, None for plain GRPO, and the learner's engine; a copy of each on every rank."""
    settings: dict[str, Any] = {
        "device": device,
        "precision": cfg.model.precision,
        "max_batch_rows": cfg.rollout.max_batch_rows,
    }
    explorer = None
    if cfg.explorer.path is not None:
        explorer = make_engine(EmbeddedEngine, "explorer.path", cfg.explorer.path, source=Source.EXPLORER, **settings)
    learner = make_engine(EmbeddedLearnerEngine, "model.path", cfg.model.path, source=Source.LEARNER, **settings)
    return explorer, learner
