"""The best checkpoint of a run by a metric of its validations. It is kept, and `checkpoints/best` leads to it."""

from __future__ import annotations

import os
from typing import NamedTuple

from s2l_nemo.files import TEMPORARY, sync
from s2l_nemo.records.checkpoints import complete_checkpoints
from s2l_nemo.records.directory import RunDir
from s2l_nemo.records.metrics import read_metrics

NAME = "best"  # of the link in the folder of checkpoints


class Best(NamedTuple):
    """A checkpoint's step, and what its validation found."""

    step: int
    value: float


def best_checkpoint(run_dir: RunDir, metric: str) -> Best | None:
    """Of the complete checkpoints with a validation, the one with the largest value; of equal ones the earliest."""
    values = {line["step"]: line.get(metric) for line in read_metrics(run_dir.metrics)}
    steps = [checkpoint.step for checkpoint in complete_checkpoints(run_dir.checkpoints)]
    scored = [Best(step, value) for step in steps if (value := values.get(step)) is not None]
    return max(scored, key=lambda one: (one.value, -one.step), default=None)


def is_better(run_dir: RunDir, metric: str, step: int) -> bool:
    """Whether the validation after this step found more than that of every checkpoint that is there."""
    values = {line["step"]: line.get(metric) for line in read_metrics(run_dir.metrics)}
    value, best = values.get(step), best_checkpoint(run_dir, metric)
    return value is not None and (best is None or value > best.value)


def link_best(run_dir: RunDir, step: int) -> None:
    """Lets `checkpoints/best` lead to the checkpoint of this step. A kill leaves the old link or the new one."""
    temporary = run_dir.checkpoints / f"{TEMPORARY}{NAME}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(run_dir.checkpoint(step).name)
    os.replace(temporary, run_dir.checkpoints / NAME)
    sync(run_dir.checkpoints)
