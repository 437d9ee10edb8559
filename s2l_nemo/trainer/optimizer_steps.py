"""How many optimizer steps a run makes, which a learning rate's schedule must know."""

from __future__ import annotations

import math

from s2l_nemo.algorithm.schedule import make_schedule
from s2l_nemo.config.schema import Config


def optimizer_steps(cfg: Config) -> int:
    """Of the whole run."""
    algorithm = cfg.algorithm
    of_prompts = algorithm.prompts_per_step // (algorithm.mini_batch_prompts or algorithm.prompts_per_step)
    if not cfg.rollout.two_updates:
        return algorithm.steps * of_prompts * algorithm.optimizer_passes
    schedule, total = make_schedule(algorithm.schedule, algorithm.steps), 0
    for step in range(1, algorithm.steps + 1):
        split = schedule(step, algorithm.group_size)
        of_explorer = of_prompts if split.explorer else 0
        if algorithm.explorer_mini_batch is not None:
            of_explorer = math.ceil(algorithm.prompts_per_step * split.explorer / algorithm.explorer_mini_batch)
        total += of_explorer + (of_prompts if split.learner else 0)
    return total * algorithm.optimizer_passes
