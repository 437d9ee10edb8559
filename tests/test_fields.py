"""Facts at a key, and every kind of range at its borders."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import pytest
from omegaconf import OmegaConf

from s2l_nemo.fields import (
    BELOW_ONE,
    COUNT,
    NON_NEGATIVE,
    POSITIVE,
    POSITIVE_COUNT,
    PROPER_SHARE,
    SHARE,
    Facts,
    Range,
    above,
    at_least,
    between,
    facts_of,
    key,
)
from s2l_nemo.registry import Registry

TINY = 5e-324  # the smallest float above 0
ALMOST_ONE = 1 - 2**-53  # the largest float below 1


@pytest.mark.parametrize(
    ("allowed", "inside", "outside", "wanted"),
    [
        (at_least(2), [2, 3, 1e300], [1, 1.9, -2, math.inf], "at least 2"),
        (above(1), [1 + 2**-52, 2, 1e300], [1, 0, -1, math.inf], "greater than 1"),
        (between(-2, 2), [-2, 0, 2], [-2.1, 2.1, math.inf, -math.inf], "from -2 to 2"),
        (COUNT, [0, 1], [-1], "at least 0"),
        (POSITIVE_COUNT, [1, 2], [0, -1], "at least 1"),
        (NON_NEGATIVE, [0.0, TINY], [-TINY, math.inf], "at least 0"),
        (POSITIVE, [TINY, 1.0], [0.0, -1.0, math.inf], "greater than 0"),
        (BELOW_ONE, [0.0, ALMOST_ONE], [-TINY, 1.0], "at least 0 and less than 1"),
        (SHARE, [TINY, 1.0], [0.0, 1 + 2**-52], "greater than 0 and at most 1"),
        (PROPER_SHARE, [TINY, ALMOST_ONE], [0.0, 1.0], "greater than 0 and less than 1"),
    ],
    ids=lambda value: value.wanted.replace(" ", "_") if isinstance(value, Range) else "",
)
def test_borders(allowed: Range, inside: list[float], outside: list[float], wanted: str) -> None:
    assert [value for value in inside if not allowed.holds(value)] == []
    assert [value for value in [*outside, math.nan] if allowed.holds(value)] == []
    assert allowed.wanted == wanted


COLOURS: Registry[int] = Registry("colour", {"red": 1, "blue": 2})


@dataclass
class Example:
    count: int = key(3, "how many", COUNT, may_change=True)
    colour: str = key("red", "which colour", choices=COLOURS)
    names: list[str] = key(lambda: ["a"], "who")
    bare: dict[str, int] = key(dict, "anything")


def test_facts_stand_at_the_field() -> None:
    count, colour, names, _ = (facts_of(field.metadata) for field in fields(Example))
    assert count == Facts("how many", COUNT, None, may_change=True)
    assert colour == Facts("which colour", None, COLOURS, may_change=False)
    assert names == Facts("who", None, None, may_change=False)


def test_defaults_are_made_anew() -> None:
    first, second = Example(), Example()
    first.names.append("b")
    first.bare["x"] = 1
    assert (second.count, second.colour, second.names, second.bare) == (3, "red", ["a"], {})


def test_omegaconf_takes_the_fields() -> None:
    assert OmegaConf.to_container(OmegaConf.structured(Example)) == {
        "count": 3, "colour": "red", "names": ["a"], "bare": {},
    }  # fmt: skip
