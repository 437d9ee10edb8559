# ruff: noqa: RUF001  (look-alike characters are what this file is about)
from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.rewards.answers import extract_choice, last_boxed, normalize_answer
from s2l_nemo.rewards.notation import MAX_SYMBOLIC
from s2l_nemo.rewards.plain_numbers import exact_number
from s2l_nemo.rewards.quick import decide, is_prose
from s2l_nemo.rewards.units import split_unit


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{579}", "579"),
        (r"first \boxed{1}, then \boxed{2}.", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed {5}", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{a\}", None),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{3} and \boxed{4", "3"),
        (r"} \boxed{3}", "3"),
        (r"{ \boxed{3}", "3"),
        (r"\boxed 5", "5"),
        (r"Put it in \boxed and stop", None),
        (r"\boxed{3} (mark it with \boxed)", "3"),
        (r"\fbox{7}", "7"),
        (r"\boxed C.", "C"),
        ("579", None),
        ("", None),
        (r"\boxed{}", ""),
    ],
)
def test_the_last_balanced_box_is_the_answer(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


@given(st.text(alphabet="\\boxed{} 5"))
def test_any_text_has_a_balanced_box_or_none(text: str) -> None:
    content = last_boxed(text)
    assert content is None or content in text


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (" 579 ", "579"),
        ("$579$", "579"),
        ("579.", "579"),
        ("1,234,567", "1234567"),
        ("a  b", "a b"),
        (r"\dfrac12", r"\frac{1}{2}"),
        (r"\left( 3 , 4 \right]", "(3,4]"),
        (r"x^{2}", "x^2"),
        (r"\textbf{Evelyn}.", "Evelyn"),
        (r"90^{\circ}", r"90^\circ"),
        ("５", "5"),
        ("x² ≤ π", r"x^2\le\pi"),
        (r"\sqrt2", r"\sqrt{2}"),
        ("(C)", "C"),
        (r"\$5", r"\dollar 5"),
        ("{5}", "5"),
    ],
)
def test_equal_after_normalisation(left: str, right: str) -> None:
    assert normalize_answer(left) == right


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("1,23", "123"),
        ("5 7", "57"),
        ("579", "0579"),
        ("-5", "5"),
        ("(1,2)", "(12)"),
        ("a b", "ab"),
        ("x^{12}", "x^12"),
    ],
)
def test_different_after_normalisation(left: str, right: str) -> None:
    assert normalize_answer(left) != normalize_answer(right)


@given(st.text(max_size=50))
def test_any_text_can_be_normalised_and_decided(text: str) -> None:
    answer = normalize_answer(text)
    exact_number(answer)
    assert decide("5", answer) in (True, False, None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", Fraction(5)),
        ("-.25", Fraction(-1, 4)),
        ("5.", Fraction(5)),
        ("1/3", Fraction(1, 3)),
        ("-1/3", Fraction(-1, 3)),
        (r"\frac{-1}{3}", Fraction(-1, 3)),
        (r"-\frac{1}{3}", Fraction(-1, 3)),
        (r"1\frac{4}{5}", Fraction(9, 5)),
        (r"-1\frac{1}{2}", Fraction(-3, 2)),
        (r"0.\overline{3}", Fraction(1, 3)),
        (r"-1.2\overline{45}", Fraction(-137, 110)),
        (r"2.5\times10^{-3}", Fraction(1, 400)),
        ("1e3", Fraction(1000)),
        (r"\frac{1}{0}", None),
        ("x", None),
        ("", None),
        ("1,5", None),
        ("52_8", None),
        ("1" * 501, None),
    ],
)
def test_plain_numbers_are_exact(text: str, value: Fraction | None) -> None:
    assert exact_number(text) == value


@given(st.fractions())
def test_every_fraction_is_read_back(value: Fraction) -> None:
    assert exact_number(rf"\frac{{{value.numerator}}}{{{value.denominator}}}") == value
    assert exact_number(f"{value.numerator}/{value.denominator}") == value


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        (r"15\text{cm}^2", "15", "cm^2"),
        (r"15\text{centimeters}^{2}", "15", "cm^2"),
        (r"90^\circ", "90", "degree"),
        ("90 degrees", "90", "degree"),
        (r"5\%", "5", "%"),
        ("5%", "5", "%"),
        ("6m", "6m", None),
        ("cm", "cm", None),
        (r"\sqrt{2}\text{feet}", r"\sqrt{2}", "foot"),
    ],
)
def test_units_are_told_from_variables(text: str, value: str, unit: str | None) -> None:
    assert split_unit(text) == (value, unit)


def test_an_answer_longer_than_any_gold_is_decided_by_its_text() -> None:
    long = "x+" * MAX_SYMBOLIC + "x"
    assert decide(long, long) is True
    assert decide("x", long) is False
    assert decide("x", "x+0") is None


def test_sentences_are_told_from_mathematics() -> None:
    assert is_prose("No two of them can be in the same group")
    assert not is_prose(r"\begin{pmatrix}\frac{1}{2}\\\sqrt{3}\end{pmatrix}")
    assert not is_prose(r"5\text{ square centimeters}")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (r"\boxed{C}", "C"),
        (r"\boxed{\text{C}}", "C"),
        (r"\boxed{\text{(C)}}", "C"),
        (r"\boxed{(C) a bank}", "C"),
        (r"\boxed{C. a bank}", "C"),
        (r"\boxed{c}", "C"),
        (r"A or B? \boxed{A}. No: \boxed{B}", "B"),
        ("The answer is C.", "C"),
        ("The answer is (C)", "C"),
        ("answer: **C**", "C"),
        ("I weigh (A) and (B).", "B"),
        ("C.", "C"),
        ("Reasoning.\nC", "C"),
        ("C. a bank", "C"),
        (r"\boxed{bank}", None),
        ("A bank is a place.", None),
        ("The answer is Canada.", None),
        ("", None),
    ],
)
def test_the_letter_that_is_chosen(text: str, letter: str | None) -> None:
    assert extract_choice(text) == letter
