"""How many optimizer steps a run makes, which a learning rate's schedule must know."""

from __future__ import annotations

from s2l_nemo.algorithm.schedule import make_schedule
from s2l_nemo.config.parts import parts_of_step
from s2l_nemo.config.schema import Config


def optimizer_steps(cfg: Config) -> int:
    """Of the whole run."""
    algorithm = cfg.algorithm
    schedule = make_schedule(algorithm.schedule, algorithm.steps)
    splits = [schedule(step, algorithm.group_size) for step in range(1, algorithm.steps + 1)]
    updates = sum(part.updates for split in splits for part in parts_of_step(cfg, split.explorer))
    return updates * algorithm.optimizer_passes
