"""What came of a run: its first and its last validation, compared if they asked the same."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2l_nemo.config.schema import Part
from s2l_nemo.measures.statistics import Interval, bootstrap_mean, paired_bootstrap
from s2l_nemo.trainer.validation import named_interval, read_validation, validation_file


@dataclass(frozen=True)
class Comparison:
    """Means before and after training; None where a validation is missing. `difference` is None if `unpaired` says why.

    Only validations of the same problems, sampled and rewarded in the same way, are compared: a difference of means
    over others says nothing of the training.
    """

    before: Interval | None
    after: Interval | None
    difference: Interval | None
    unpaired: str = ""

    def figures(self) -> dict[str, float | None]:
        """None at all if there was no validation."""
        if self.before is None and self.after is None:
            return {}
        return {
            **named_interval("pass@1/before", self.before),
            **named_interval("pass@1/after", self.after),
            **named_interval("pass@1/difference", self.difference),
        }

    def in_words(self) -> str:
        if self.before is None and self.after is None:
            return "no pass@1: there is no validation before and after training (validation.prompts)"
        before, after = (f"{one.mean:.3f}" if one else "unknown" for one in (self.before, self.after))
        if self.difference is None:
            return f"pass@1 {before} -> {after}, not compared: {self.unpaired}"
        gain = self.difference
        return (
            f"pass@1 {before} -> {after}, "
            f"difference {gain.mean:+.3f} (95 % paired bootstrap {gain.low:+.3f} to {gain.high:+.3f})"
        )


def compare(validations: Path, steps: int, changed: Collection[Part] = ()) -> Comparison:
    """Compares the validation before the first step to the one after `steps`, from their files in a folder.

    `changed` is what `run.allow_changed` has let the run change in between. Raises UserError for a damaged file.
    """
    before, after = (read_validation(validations, step) for step in (0, steps))
    first, last = (None if one is None else bootstrap_mean(one["correct"]) for one in (before, after))
    if before is None or after is None:
        missing = validation_file(validations, 0 if before is None else steps)
        return Comparison(first, last, None, f"{missing} is missing")
    if before["prompt_ids"] != after["prompt_ids"]:
        asked = f"{len(before['prompt_ids'])} held-out prompts before training, {len(after['prompt_ids'])} after it"
        return Comparison(first, last, None, f"{asked}, not the same")
    unpaired = _other_question(before.get("asked") or {}, after.get("asked") or {}, changed)
    if unpaired:
        return Comparison(first, last, None, unpaired)
    return Comparison(first, last, paired_bootstrap(before["correct"], after["correct"]))


def _other_question(before: Mapping[str, Any], after: Mapping[str, Any], changed: Collection[Part]) -> str:
    """Why two validations of prompts with the same numbers did not ask the same; empty if they did.

    An earlier version has not written what it asked.
    """
    if Part.reward in changed:
        return "rewards.fn has changed since"
    if not before or not after:
        return ""
    if before["prompts"] != after["prompts"]:
        return "other prompts have the same numbers"
    for name, value in before["sampling"].items():
        if value != after["sampling"].get(name):
            return f"sampled with {name}={value} before training, {after['sampling'].get(name)} after it"
    return ""


def figures_of_sets(validations: Path, steps: int, changed: Collection[Part] = ()) -> dict[str, float | None]:
    """Before, after and gain of each benchmark of `validation.sets` that was asked both times, under its name."""
    found: dict[str, float | None] = {}
    for folder in sorted(path for path in validations.glob("*") if path.is_dir()):
        compared = compare(folder, steps, changed)
        if compared.difference is not None:
            found |= {f"{folder.name}/{name}": value for name, value in compared.figures().items()}
    return found
