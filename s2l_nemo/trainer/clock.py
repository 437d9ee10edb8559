"""Wall time of the phases of a step. `rollout` holds those of both engines, which may run at the same time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

PHASES = ("rollout", "rollout_explorer", "rollout_learner", "reward", "explorer_filter", "logprobs", "update", "refit")


class Clock:
    """Seconds spent in each named phase since the clock was made; a phase entered twice is summed."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    def total(self) -> float:
        return time.perf_counter() - self._start

    def metrics(self) -> dict[str, float | None]:
        """`time/PHASE` for every phase, None for one that this step did not need, and `time/step`, in seconds."""
        return {**{f"time/{phase}": self.seconds.get(phase) for phase in PHASES}, "time/step": self.total()}
