"""Claims of the paper with their verdicts, and the sentences that say them.

The runner judges and writes `claims.json`. Here a verdict becomes words. No sentence says more than its interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import assert_never

from s2l_nemo.errors import UserError
from s2l_nemo.reproduction.claims import Verdict
from s2l_nemo.reproduction.report.runs import read_json

TITLES = {
    Verdict.reproduced: "Reproduced at this size",
    Verdict.not_reproduced: "Not reproduced at this size",
    Verdict.undecided: "Undecided at this size",
}


@dataclass(frozen=True)
class Claim:
    """One claim. `difference` has the 95 % interval `low`..`high`; all three are None if nothing was measured.

    `bound`: how far apart two values may be and still count as equal, in the unit of `metric`. `note`: what else one
    must know, such as that one seed says nothing of others.
    """

    id: str
    text: str
    source: str
    experiments: tuple[str, ...]
    metric: str
    difference: float | None
    low: float | None
    high: float | None
    bound: float | None
    verdict: Verdict
    seeds: int | None
    problems: int | None
    rule: str
    note: str = ""

    @property
    def title(self) -> str:
        return TITLES[self.verdict]

    @property
    def measured(self) -> tuple[float, float, float] | None:
        """Difference, low and high, if all three are there."""
        if self.difference is None or self.low is None or self.high is None:
            return None
        return self.difference, self.low, self.high

    @property
    def sentence(self) -> str:
        """What may be said: the verdict, the difference with its interval, and on what it was measured."""
        if self.measured is None:
            return f"{self.title}: nothing was measured that could decide it."
        difference = f"the difference in {self.metric} is {signed(self.measured[0])}"
        over = " over problems alone" if self.seeds == 1 and self.problems else ""
        what = f"{difference}, 95 % interval{over} {self.interval}, {self.basis}"
        match self.verdict:
            case Verdict.reproduced:
                return f"{self.title}: {what}. The rule below counts this as agreement."
            case Verdict.not_reproduced:
                return f"{self.title}: {what}. The rule below counts this as disagreement."
            case Verdict.undecided:
                return f"{self.title}: {what}. The rule below decides neither way."
            case _:
                assert_never(self.verdict)

    @property
    def interval(self) -> str:
        if self.measured is None:
            return "none"
        _, low, high = self.measured
        return f"{signed(low)} to {signed(high)}"

    @property
    def basis(self) -> str:
        """How many seeds and problems, in words. FLOP have no problems."""
        of_seeds = counted(self.seeds, "seed")
        return of_seeds if self.problems == 0 else f"{of_seeds}, {counted(self.problems, 'problem')}"


def counted(number: int | None, what: str) -> str:
    """`3 seeds`, `1 seed`, or that the number is unknown."""
    if number is None:
        return f"unknown number of {what}s"
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def signed(value: float) -> str:
    """Three decimals, or two digits of what is smaller."""
    return f"{value:+.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:+.1e}"


def tally(claims: Sequence[Claim]) -> str:
    """How many claims have which verdict, in one sentence."""
    numbers = {verdict: sum(claim.verdict is verdict for claim in claims) for verdict in Verdict}
    words = [f"{numbers[verdict]} {title.removesuffix(' at this size').lower()}" for verdict, title in TITLES.items()]
    return f"Of {counted(len(claims), 'claim')} judged at this size: {', '.join(words)}."


def read_claims(path: Path) -> list[Claim] | None:
    """The claims in the order of the file; None if it is not there.

    Raises UserError if a claim is malformed, or if one is decided without an interval around its difference.
    """
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, list) or not all(isinstance(one, Mapping) for one in content):
        raise UserError(f"{path} holds no list of claims: judge the runs again")
    return [_claim(path, one) for one in content]


def _claim(path: Path, one: Mapping[str, Any]) -> Claim:
    try:
        claim = Claim(
            str(one["id"]),
            str(one["text"]),
            str(one["source"]),
            tuple(map(str, one["experiments"])),
            str(one["metric"]),
            _number(one["difference"]),
            _number(one["low"]),
            _number(one["high"]),
            _number(one["bound"]),
            Verdict(one["verdict"]),
            _count(one["seeds"]),
            _count(one["problems"]),
            str(one["rule"]),
            str(one.get("note") or ""),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: claim {one.get('id')!r} is malformed ({error!r}): judge the runs again") from None
    if claim.verdict is not Verdict.undecided and claim.measured is None:
        raise UserError(
            f"{path}: claim {claim.id!r} is {claim.verdict.value} without an interval: judge the runs again"
        )
    if claim.measured is not None and claim.measured[1] > claim.measured[2]:
        raise UserError(f"{path}: claim {claim.id!r} has an interval that ends before it begins: judge the runs again")
    return claim


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _count(value: Any) -> int | None:
    """A number of seeds or problems; a list of them is counted."""
    if value is None:
        return None
    return len(value) if isinstance(value, list) else int(value)
