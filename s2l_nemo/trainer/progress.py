"""How far a run has come: what a resumed run must know besides weights and optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from s2l_nemo.algorithm.schedule import Outcome
from s2l_nemo.types import SampleRequest


@dataclass
class Progress:
    """The same on every rank. `outcomes` has one entry for each step done."""

    step: int = 0  # steps done
    position: int = 0  # prompts taken in the order of the data
    drawn: dict[tuple[int, int], int] = field(default_factory=dict)  # see `algorithm.groups.Drawn`
    outcomes: list[Outcome] = field(default_factory=list)
    totals: dict[str, float] = field(default_factory=dict)  # of the run so far, as metrics name them
    skipped: int = 0  # updates, in a row up to the last one, that something not finite has stopped

    def add(self, name: str, amount: float) -> None:
        """Adds to a total of the run."""
        self.totals[name] = self.totals.get(name, 0.0) + amount

    def draw(self, source: int, requests: Iterable[SampleRequest]) -> None:
        """Counts the requests of one source."""
        for request in requests:
            key = source, request.prompt_id
            self.drawn[key] = self.drawn.get(key, 0) + 1

    def state(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {
            "step": self.step,
            "position": self.position,
            "drawn": [[*key, count] for key, count in self.drawn.items()],
            "outcomes": [asdict(outcome) for outcome in self.outcomes],
            "totals": dict(self.totals),
            "skipped": self.skipped,
        }

    @classmethod
    def of(cls, state: dict[str, Any], prompts_per_step: int) -> Progress:
        """From a checkpoint. One of an earlier version holds the step alone: it took whole batches."""
        step = int(state["step"])
        return cls(
            step=step,
            position=state.get("position", step * prompts_per_step),
            drawn={(source, prompt): count for source, prompt, count in state.get("drawn", [])},
            outcomes=[Outcome(**outcome) for outcome in state.get("outcomes", [])],
            totals=dict(state.get("totals", {})),
            skipped=state.get("skipped", 0),
        )
