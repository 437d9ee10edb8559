"""The facts of a configuration key, written where the key is declared: default, meaning, range, resume.

    lr: float = key(1e-6, "learning rate", POSITIVE)

`--help`, the checks of ranges and the comparison of a resumed run read them from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from s2l_nemo.registry import Registry

_FACTS = "facts"  # their key in the metadata of a dataclass field


@dataclass(frozen=True)
class Range:
    """The values that a key may have. `wanted` completes the sentence "must be ..."."""

    holds: Callable[[Any], bool]
    wanted: str


def at_least(low: float) -> Range:
    """Finite numbers from `low` on."""
    return Range(lambda value: low <= value < math.inf, f"at least {low}")


def above(low: float) -> Range:
    """Finite numbers greater than `low`."""
    return Range(lambda value: low < value < math.inf, f"greater than {low}")


def between(low: float, high: float) -> Range:
    """Numbers from `low` to `high`, both included."""
    return Range(lambda value: low <= value <= high, f"from {low} to {high}")


COUNT, POSITIVE_COUNT = at_least(0), at_least(1)
NON_NEGATIVE, POSITIVE = at_least(0), above(0)
BELOW_ONE = Range(lambda value: 0 <= value < 1, "at least 0 and less than 1")
SEED = between(0, 2**32 - 1)  # what numpy takes
TEMPERATURE = at_least(0.001)  # logits over less overflow; engines sample the likeliest token with less
TEMPERATURE_OR_GREEDY = Range(lambda value: value == 0 or TEMPERATURE.holds(value), "0 or at least 0.001")
SHARE = Range(lambda value: 0 < value <= 1, "greater than 0 and at most 1")
PROPER_SHARE = Range(lambda value: 0 < value < 1, "greater than 0 and less than 1")


@dataclass(frozen=True)
class Facts:
    """What is known of a key besides its type and default."""

    help: str
    range: Range | None = None  # null is always allowed
    choices: Registry[Any] | None = None  # the key's text must name one of them
    may_change: bool = False  # a resumed run may have another value than it began with
    path: bool = False  # names files: `~` at its begin is the user's home


def key(
    default: Any,
    help: str,
    range: Range | None = None,
    *,
    choices: Registry[Any] | None = None,
    may_change: bool = False,
    path: bool = False,
) -> Any:
    """A field of a configuration dataclass. A default that is a function makes the value, as in `key(list)`.

    `may_change` is for keys that decide where, how fast or how often, and not what is learned. `path` is for those that
    name a file or a folder, or several.
    """
    facts = {_FACTS: Facts(help, range, choices, may_change, path)}
    if callable(default):
        return field(default_factory=default, metadata=facts)
    return field(default=default, metadata=facts)


def facts_of(metadata: Any) -> Facts:
    """The facts in the metadata of a dataclass field that `key` has made."""
    facts: Facts = metadata[_FACTS]
    return facts
