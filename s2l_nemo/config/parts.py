"""How a run's steps are shared: by replicas of the model, by optimizer steps, and by two updates."""

from __future__ import annotations

import math
from dataclasses import dataclass

from s2l_nemo.config.schema import Config


def data_parallel_size(cfg: Config) -> int:
    """Number of model replicas: all ranks over TP x PP."""
    return (cfg.trainer.devices * cfg.trainer.num_nodes) // (
        cfg.model.tensor_model_parallel_size * cfg.model.pipeline_model_parallel_size
    )


def mini_batch_prompts(cfg: Config) -> int:
    """Prompts of one optimizer step, over all ranks."""
    return cfg.algorithm.mini_batch_prompts or cfg.algorithm.prompts_per_step


@dataclass(frozen=True)
class Part:
    """A part of a step whose groups the learner is updated on: all of it, or one half with `rollout.two_updates`."""

    samples: int  # of each group
    updates: int  # optimizer steps of one pass


def parts_of_step(cfg: Config, explorer: int) -> list[Part]:
    """The parts of a step in which explorers give `explorer` samples of each group."""
    algorithm = cfg.algorithm
    updates = algorithm.prompts_per_step // mini_batch_prompts(cfg)
    if not cfg.rollout.two_updates:
        return [Part(algorithm.group_size, updates)]
    of_explorer = updates
    if algorithm.explorer_mini_batch is not None:
        of_explorer = math.ceil(algorithm.prompts_per_step * explorer / algorithm.explorer_mini_batch)
    parts = [Part(explorer, of_explorer), Part(algorithm.group_size - explorer, updates)]
    return [part for part in parts if part.samples]
