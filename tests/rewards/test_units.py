"""What is a unit, what only looks like one, and how units are written."""

from __future__ import annotations

import pytest

from s2l_nemo.rewards.braces import brace_arguments
from s2l_nemo.rewards.notation import canonical
from s2l_nemo.rewards.units import split_unit


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        (r"5 \text{ square centimeters}", "5", "cm^2"),
        (r"5 \text{ cm squared}", "5", "cm^2"),
        (r"5 \mathrm{~cm}^{3}", "5", "cm^3"),
        (r"5\text{ sq. ft}", "5", "foot^2"),
        (r"60 \mathrm{mi}/\mathrm{hr}", "60", "hour^-1*mile"),
        ("60 mph", "60", "hour^-1*mile"),
        (r"60\text{ miles per hour}", "60", "hour^-1*mile"),
        (r"9.8\text{ m}\cdot\text{s}^{-2}", "9.8", "m*second^-2"),
        (r"9.8 \text{ m/s}^2", "9.8", "m*second^-2"),
        ("5 m/s", "5", "m*second^-1"),
        ("12 different ways", "12", "way"),
        ("3 boxes", "3", "box"),
        ("3 cities", "3", "city"),
        ("3 quokkas", "3quokkas", None),
        ("5th", "5", "th"),
        (r"5\text{th root}", r"5\text{th root}", None),
        (r"5\ \frac{\text{m}}{\text{s}}", "5", "m*second^-1"),
        (r"5\ (\text{cm}^2)", "5", "cm^2"),
        (r"5\ (\text{or }7)", r"5(\lor 7)", None),
        ("Rs. 5", "5", "rupee"),
        ("6 people", "6", "person"),
        (r"\$5", "5", "dollar"),
        (r"-\$5", "-5", "dollar"),
        (r"\$5\text{ dollars}", "5", "dollar"),
        (r"\$5 \text{ per hour}", "5", "dollar*hour^-1"),
        ("€10", "10", "euro"),
        (r"25^\circ\text{C}", "25", "celsius"),
        ("28 pct", "28", "%"),
        (r"\frac{1}{2}\text{ hour}", r"\frac{1}{2}", "hour"),
        # no units
        ("5x", "5x", None),
        ("5m", "5m", None),
        (r"3\mathrm{i}", "3i", None),
        (r"3\mathbf{i}", r"3\mathbf{i}", None),
        (r"5\text{k}", r"5\text{k}", None),
        (r"5\text{ is wrong}", r"5\text{is wrong}", None),
        (r"5\text{ cm wrong}", r"5\text{cm wrong}", None),
        (r"\sin 30^\circ", r"\sin 30^\circ", None),
        (r"x+\text{cm}", r"x+\text{cm}", None),
        (r"\text{cm}", "cm", None),
    ],
)
def test_values_and_units(text: str, value: str, unit: str | None) -> None:
    assert split_unit(canonical(text)) == (value, unit)


def test_words_of_a_gold_answer_are_its_unit_and_no_words_of_an_answer_are() -> None:
    gold = canonical(r"5\text{ widgets}")
    assert split_unit(gold) == (gold, None)
    assert split_unit(gold, trusted=True) == ("5", "widget")
    assert split_unit(canonical("5 widgets"), also="widget") == ("5", "widget")
    for words in ("or more", "dozen", "hundred", "less than x", "times"):
        assert split_unit(canonical(rf"5\text{{ {words}}}"), trusted=True)[1] in (None, "time")


@pytest.mark.parametrize(
    ("text", "braced"),
    [
        (r"\frac\pi2", r"\frac{\pi}{2}"),
        (r"\frac12x", r"\frac{1}{2}x"),
        (r"\frac{\sqrt3}2", r"\frac{\sqrt{3}}{2}"),
        (r"x^\frac12", r"x^{\frac{1}{2}}"),
        (r"\sqrt[3]\pi", r"\sqrt[3]{\pi}"),
        (r"2^-12+1", r"2^{-12}+1"),
        (r"\frac\frac123", r"\frac{\frac{1}{2}}{3}"),
        (r"\binom 5 2", r"\binom{5}{2}"),
        (r"30^\circ", r"30^\circ"),
        (r"\frac{1}{2}", r"\frac{1}{2}"),
        (r"\frac1", r"\frac1"),
        (r"\frac{1}{", r"\frac{1}{"),
        (r"\sqrt" * 100 + "2", r"\sqrt" * 100 + "2"),  # too deep
    ],
)
def test_arguments_get_braces(text: str, braced: str) -> None:
    assert brace_arguments(text) == braced
