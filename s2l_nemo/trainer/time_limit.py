"""Whether the next step would end too late for the time limit of a job (`run.save_before`)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

TIME_IS_UP = -1  # what `Trainer.fit` returns then, where a signal would stand
OUT_OF_TIME = 4  # exit code
REMEMBERED = 10  # steps whose longest stands for the next one


@dataclass
class TimeLimit:
    """Learns how long steps, validations and checkpoints take. All times in seconds.

    `at` is the time by which a checkpoint must stand, as `now` tells it, None for no limit. What has not been seen yet
    counts as long as the longest step: a first checkpoint, a first validation.
    """

    at: float | None = None
    now: Callable[[], float] = time.time
    steps: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    validation: float | None = None  # the last one
    save: float | None = None  # the longest one

    def timed_step(self, seconds: float, validation: float | None) -> None:
        """A step has taken so long, of which its validation, if it had one."""
        self.steps.append(seconds - (validation or 0.0))
        if validation is not None:
            self.validation = validation

    def timed_save(self, seconds: float) -> None:
        """A checkpoint has taken so long."""
        self.save = max(seconds, self.save or 0.0)

    def needed(self, *, validates: bool) -> float:
        """Seconds until the checkpoint after the next step would stand."""
        step = max(self.steps, default=0.0)
        validation = step if self.validation is None else self.validation
        return step + (validation if validates else 0.0) + (step if self.save is None else self.save)

    def reached(self, *, validates: bool) -> bool:
        """Whether the run must save now. `validates`: the next step is followed by a validation.

        The clock of rank 0 counts. Collective, unless there is no limit.
        """
        if self.at is None:
            return False
        found = [self.now() + self.needed(validates=validates) >= self.at]
        torch.distributed.broadcast_object_list(found, 0)
        return found[0]
