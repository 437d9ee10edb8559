"""What every device did, and when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum


class Phase(str, Enum):
    """What a device does. A device that does nothing waits for others."""

    explorer = "explorer samples"
    learner = "learner samples"
    both = "both sample"
    wake = "wake"
    exchange = "exchange"
    grading = "grading"
    sleep = "sleep"
    logprobs = "log-probs"
    update = "update"
    refit = "refit"
    outside = "outside"


SAMPLING = frozenset({Phase.explorer, Phase.learner, Phase.both})


@dataclass(frozen=True)
class Interval:
    """A device does one thing from `start` to `end`, in seconds since the simulation began."""

    phase: Phase
    start: float
    end: float


@dataclass
class Timeline:
    """The intervals of each device, in order and without overlap."""

    devices: int
    intervals: list[list[Interval]] = field(init=False)

    def __post_init__(self) -> None:
        self.intervals = [[] for _ in range(self.devices)]

    def add(self, device: int, phase: Phase, start: float, end: float) -> None:
        """Appends an interval of a device, unless it has no length."""
        mine = self.intervals[device]
        assert end >= start, (phase, start, end)
        assert not mine or start >= mine[-1].end, (device, phase, start, mine[-1])
        if end > start:
            mine.append(Interval(phase, start, end))

    def together(self, devices: Iterable[int], phase: Phase, start: float, seconds: Sequence[float]) -> float:
        """Each device does the same phase for its own seconds. Returns when the last one is done: all wait for it."""
        for device, its in zip(devices, seconds, strict=True):
            self.add(device, phase, start, start + its)
        return start + max(seconds, default=0.0)

    def busy(self, device: int, start: float, end: float, phases: frozenset[Phase] = frozenset(Phase)) -> float:
        """Seconds between `start` and `end` in which a device does one of `phases`."""
        return sum(
            max(0.0, min(one.end, end) - max(one.start, start)) for one in self.intervals[device] if one.phase in phases
        )

    def idle(self, start: float, end: float) -> float:
        """Share of the time from `start` to `end` in which devices wait, over all of them."""
        if end <= start:
            return 0.0
        busy = sum(self.busy(device, start, end) for device in range(self.devices))
        return max(0.0, 1 - busy / (self.devices * (end - start)))  # rounding may leave less than 0

    def bins(self, device: int, start: float, end: float, count: int) -> list[Phase | None]:
        """What a device does in each of `count` equal parts of a time: what takes most of it, None if it waits most."""
        width, parts = (end - start) / count, []
        for number in range(count):
            low, high = start + number * width, start + (number + 1) * width
            seconds = {phase: self.busy(device, low, high, frozenset({phase})) for phase in Phase}
            longest = max(Phase, key=lambda phase: seconds[phase])
            parts.append(longest if seconds[longest] > width - sum(seconds.values()) else None)
        return parts
