"""`identity.json`: fingerprints of all that a run is made from, and what has been another since.

A run that goes on with other weights, data or rewards than it began with is two runs in one. So each difference is
refused, or allowed by `run.allow_changed` and kept with the step after which it came.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2l_nemo.config.schema import Part
from s2l_nemo.errors import UserError
from s2l_nemo.files import parse_json, write_json_atomic
from s2l_nemo.records.checkpoints import CHECKPOINTS, latest_checkpoint

IDENTITY = "identity.json"
TOKENS = "tokens"  # fact, or end of one: what the tokenizer and the template make of a text
ROWS = "rows"  # fact, or beginning of one: how many rows a source has, or `N+` if no more were asked for
_DIGITS = 12  # of a fingerprint that are shown


@dataclass(frozen=True)
class Fingerprint:
    """What one thing is. `what` names it for a person, `facts` are compared."""

    what: str  # as `data.path=train.jsonl`
    facts: Mapping[str, str]


Identity = Mapping[str, Fingerprint]
"""By the name of a `Part`; behind a slash the name of one of several, as in `validation_data/aime24`."""


@dataclass(frozen=True)
class Difference:
    """One thing that is not what it was."""

    name: str
    what: str
    before: str
    after: str

    @property
    def part(self) -> Part:
        return Part(self.name.partition("/")[0])

    def in_words(self) -> str:
        return f"{self.name} ({self.what}: {self.after}, before {self.before})"


def check_same_identity(run_dir: Path, now: Identity, allowed: Collection[Part]) -> None:
    """Raises UserError, which names all differences that are not allowed, if there is a checkpoint to go on from."""
    refuse(run_dir, found_differences(run_dir, now), allowed)


def settle_identity(run_dir: Path, now: Identity, allowed: Collection[Part], step: int | None) -> list[str]:
    """Writes the identity of a run that goes on after `step`, or of a new one (None). Returns lines for its user.

    Raises UserError as `check_same_identity`.
    """
    kept: list[dict[str, Any]] = []
    told: list[str] = []
    if step is not None:
        differences = found_differences(run_dir, now)
        refuse(run_dir, differences, allowed)
        kept = _history(run_dir)
        kept += [_recorded(one, step) for one in differences]
        told = [f"changed after step {step}: {one.in_words()}" for one in differences]
        if not (run_dir / IDENTITY).is_file():
            told.append(
                f"warning: an earlier version has begun the run and wrote no {IDENTITY}: whether weights, data and "
                "rewards are those of its beginning is not known"
            )
    facts = {name: {"what": one.what, "facts": dict(one.facts)} for name, one in now.items()}
    write_json_atomic(run_dir / IDENTITY, {"identity": facts, "changed": kept})
    return told


def record_changes(run_dir: Path, differences: Sequence[Difference], step: int) -> None:
    """Adds allowed differences that were found after `settle_identity`."""
    content = _read(run_dir)
    assert content is not None
    added = [_recorded(one, step) for one in differences]
    write_json_atomic(run_dir / IDENTITY, {**content, "changed": [*content["changed"], *added]})


def refuse(run_dir: Path, differences: Sequence[Difference], allowed: Collection[Part]) -> None:
    """Raises UserError, which names all differences that are not allowed."""
    refused = [one for one in differences if one.part not in allowed]
    if refused:
        parts = dict.fromkeys([one.name for one in allowed] + [one.part.name for one in refused])
        others = ", another ".join(one.in_words() for one in refused)
        raise UserError(
            f"run.dir={run_dir} began with another {others}; restore what it began with, choose another run.dir, or "
            f"set run.allow_changed=[{','.join(parts)}]"
        )


def changed_parts(run_dir: Path) -> set[Part]:
    """What has ever been changed in a run."""
    return {Part(one["part"].partition("/")[0]) for one in _history(run_dir)}


def found_differences(run_dir: Path, now: Identity) -> list[Difference]:
    """What differs from the beginning of the run in this folder; nothing if none is to go on or none is known.

    Other tokens of the same texts are the tokenizer's or the template's doing, if one of these differs.

    Raises UserError if identity.json is damaged.
    """
    content = _read(run_dir) if latest_checkpoint(run_dir / CHECKPOINTS) is not None else None
    if content is None:
        return []
    began: dict[str, dict[str, str]] = {name: one["facts"] for name, one in content["identity"].items()}
    both = [name for name in now if name in began]
    makers = {Part.tokenizer.name, Part.template.name}
    others = any(_differing(began[name], now[name].facts) for name in makers & set(both))
    found = []
    for name in both:
        facts = [
            _without_tokens(one) if others and name not in makers else one for one in (began[name], now[name].facts)
        ]
        differing = _differing(*facts)
        if differing is not None:
            found.append(Difference(name, now[name].what, *differing))
    return found


def _differing(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, str] | None:
    """The first fact that differs, before and after. What one side lacks was not asked for there."""
    for name in (name for name in after if name in before):
        if not (_fit(before[name], after[name]) if name.startswith(ROWS) else before[name] == after[name]):
            return f"{name} {before[name][:_DIGITS]}", f"{name} {after[name][:_DIGITS]}"
    return None


def _fit(before: str, after: str) -> bool:
    """Whether one source may have both numbers of rows."""
    (least, most), (other_least, other_most) = _bounds(before), _bounds(after)
    return max(least, other_least) <= min(most, other_most)


def _bounds(rows: str) -> tuple[float, float]:
    number = int(rows.rstrip("+"))
    return number, math.inf if rows.endswith("+") else number


def _without_tokens(facts: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in facts.items() if name.rpartition("/")[2] != TOKENS}


def _recorded(one: Difference, step: int) -> dict[str, Any]:
    return {"step": step, "part": one.name, "what": one.what, "before": one.before, "after": one.after}


def _history(run_dir: Path) -> list[dict[str, Any]]:
    content = _read(run_dir)
    return [] if content is None else list(content["changed"])


def _read(run_dir: Path) -> dict[str, Any] | None:
    """What identity.json holds, None if there is none."""
    file = run_dir / IDENTITY
    if not file.is_file():
        return None
    try:
        content: dict[str, Any] = parse_json(file)
        for one in content["identity"].values():
            for name, fact in one["facts"].items():
                if not isinstance(fact, str):
                    raise TypeError(name)
                if name.startswith(ROWS):
                    _bounds(fact)
        for one in content["changed"]:
            Part(one["part"].partition("/")[0])
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{file} is damaged: restore it, or remove it to go on without a comparison") from None
    return content
