"""Wall time of the phases of a step.

`rollout` lasts until every rank has sampled. `rollout_explorer` and `rollout_learner` lie within it, and may overlap.
Engines of several explorers may overlap too; their seconds add up. `explorer_ahead` is what an explorer has sampled for
this step while the actor still trained in the one before, so it is not part of this step's time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PHASES = (
    "rollout", "rollout_explorer", "rollout_learner", "explorer_ahead", "exchange", "reward", "explorer_filter",
    "logprobs", "update", "refit",
)  # fmt: skip


class Clock:
    """Seconds spent in each named phase since the clock was made. A phase that is entered twice is summed."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        """`now` tells the time in seconds."""
        self._now = now
        self._start = now()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = self._now()
        try:
            yield
        finally:
            self.add(phase, self._now() - start)

    def add(self, phase: str, seconds: float) -> None:
        """Counts seconds that were measured elsewhere."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    def total(self) -> float:
        """Seconds since the clock was made."""
        return self._now() - self._start

    def metrics(self) -> dict[str, float | None]:
        """`time/PHASE` in seconds for every phase, None for a phase that this step did not need, and `time/step`."""
        return {**{f"time/{phase}": self.seconds.get(phase) for phase in PHASES}, "time/step": self.total()}
