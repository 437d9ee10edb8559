r"""No answer earns a reward by saying two things, hiding words behind a number, merging a list, or dividing a clock.

A policy finds each of these if one is accepted. The answers are made by rule, so that a kind is tested and not a row.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_nemo.rewards.algebra import UncomparableError
from s2l_nemo.rewards.choices import extract_choice
from s2l_nemo.rewards.equivalence import equivalent
from s2l_nemo.rewards.notation import canonical
from s2l_nemo.rewards.quick import decide

NUMBERS = st.integers(-3000, 3000)
NATURALS = st.integers(1, 999)
FACTORIALS = [f"{n}!={math.factorial(n)}" for n in (0, 3, 4, 5, 6)]  # 1 and 2 are their own


def accepted(answer: str, gold: str) -> bool:
    """What the grader says of a boxed answer. A check that fails earns nothing."""
    pair = canonical(gold), canonical(answer)
    decided = decide(*pair)
    try:
        return equivalent(*pair) if decided is None else decided
    except UncomparableError:
        return False


def fraction(top: int, bottom: int) -> str:
    return rf"\frac{{{top}}}{{{bottom}}}"


GOLDS = st.one_of(
    NUMBERS.map(str),
    st.builds(fraction, NUMBERS, st.integers(2, 99)),
    st.builds(lambda a, b: rf"{a}\sqrt{{{b}}}", NATURALS, st.sampled_from([2, 3, 5, 7])),
    st.builds(lambda a: rf"{a}\pi", NATURALS),
    st.builds(lambda a, b: f"{a}x+{b}", NATURALS, NATURALS),
    st.builds(lambda a, b: f"({a},{b})", NUMBERS, NUMBERS),
    st.builds(lambda a, b: f"[{a},{a + b})", NATURALS, NATURALS),
    NUMBERS.map(lambda a: f"x={a}"),
    NATURALS.map(lambda a: rf"{a}\%"),
    NATURALS.map(lambda a: rf"{a}^\circ"),
)
BOTH = [
    "{} or {}", r"{} \text{{ or }} {}", r"{}\text{{ or {}}}", "{}, {}", r"{}\text{{, {}}}", "{}; {}", r"{}\lor {}",
    r"{} \text{{ and }} {}", r"{} and {}", r"\{{{}, {}\}}", "({}, {})", "[{}, {}]", r"{}\quad {}", r"{}\\{}", "{}\n{}",
    "{}={}", r"{} \to {}", r"{} \Rightarrow {}", r"{}\text{{ but }}{}", r"{} \text{{ (or }} {}\text{{)}}", "{} | {}",
    "x={}, x={}", r"x={}\text{{ or }}{}", "x={}\ny={}", r"{}\ldots {}", "{}或{}", r"\boxed{{{}}}, \boxed{{{}}}",
    "{} ({})", "{}!={}", r"{}\text{{ or maybe }}{}", r"\text{{either }}{}\text{{ or }}{}", r"{}\cup {}", "{} & {}",
    r"\begin{{cases}}x={}\\x={}\end{{cases}}", r"{}\text{{ if }}x>0, {}", "{} < {}", "{}{{,}} {}", r"{}\ {}",
    r"{} \sim {}", r"{} \equiv {}", "{} - {} ?", r"{} \text{{ and/or }} {}", r"{} \text{{, or }} {}",
    r"{} \text{{ vs. }} {}", r"{}\neq {}", r"{}\mid {}", r"{} \underline{{{}}}", r"{}\hspace{{1em}}{}",
    r"{}\newline {}", r"{} \oplus {}", r"{}\; {}", "{}~{}", r"{}\,{}", r"{}\text{{ }}{}", r"{}\mbox{{ or }}{}",
    r"{} \vee {}", r"{}\land {}", r"\max({}, {})?", r"{} \backslash {}", "{} // {}", "{} -> {}", "{} => {}",
    r"\frac{{{}}}{{1}} or {}", r"\boxed{{{}}} or \boxed{{{}}}", r"\begin{{array}}{{c}}{}\\{}\end{{array}}",
    r"\begin{{matrix}}{}\\{}\end{{matrix}}", r"{}\text{{ (alternatively }}{}\text{{)}}", "{} [{}]", r"{} \{{{}\}}",
    r"x\in\{{{},{}\}}", "{}_{{{}}}", "{}^{{*}} {}", r"{}\phantom{{{}}}", r"{}\cancel{{{}}}", r"{}\to{}",
    r"{}\approx{}", r"{} \cdot 1 \text{{ or }} {}", "{}' {}", r"{}\ {}", "{}|{}", r"{}\%\text{{ or }}{}",
    "{} units or {} units", r"{}\text{{cm}}, {}\text{{cm}}", r"{}\text{{cm}} {}", r"\text{{{} or {}}}",
    r"{}\tag{{{}}}", "{}% {}", r"{}\label{{{}}}", r"\color{{red}}{} {}", r"\underbrace{{{}}}_{{{}}}",
    r"\overset{{{}}}{{{}}}", r"\stackrel{{{}}}{{{}}}", r"\sout{{{}}} {}", r"{}\footnote{{{}}}",
]  # fmt: skip
WORDS = [
    r"{}\text{{ is wrong}}", r"{} \text{{ maybe}}", "{} is wrong", "{} maybe", r"\text{{not }}{}", "not {}", "{}?",
    r"\text{{The answer is }}{}", r"{}\text{{ thousand}}", r"{}\text{{ million}}", r"{}\text{{ dozen}}",
    r"{}\text{{ hundred}}", r"{}\text{{ halves}}", r"{}\text{{ less}}", r"{}\text{{ times as many}}",
    r"{}\text{{ too many}}",
    r"\neq {}", r"{}\text{{ or}}", r"{}\text{{ cm wrong}}", r"{}\text{{ minus one}}", r"{} \text{{ unless }} x=1",
    r"<{}", r"\ge {}", r"{}\ldots", r"{}\text{{ tens}}", "{} k", r"{}\text{{k}}", r"{}\mathrm{{k}}", r"{}\mathrm{{i}}",
    r"{}\mathbf{{j}}", r"{}\mathrm{{x}}", r"{}\vec{{a}}", r"{}+0q", r"{}+0\cdot\alpha", r"{} \text{{ approximately}}",
    r"{}\text{{ and so on}}", r"{}\text{{ mod }}", r"{} \text{{nope}}", r"{}\text{{ of them wrong}}", "{} or so",
    r"{}\text{{ (not sure)}}", r"\text{{about }}{}", r"{} \pm", "{}'", r"{} \%\%", r"{}\text{{ per }}x",
    r"{}\cdot\text{{unknown}}", r"{}\text{{guess}}", "{} guess", r"{}\text{{ sevenths}}", r"{}\text{{ percent of }}x",
    r"{}\text{{or}}", r"\lnot {}", r"\sim {}", r"\overline{{{}}}", r"{}^{{\text{{no}}}}", r"{}_{{\text{{no}}}}",
    r"{}^\dagger", r"{}\underbrace{{}}_{{x}}", r"{}\text{{square}}", r"{}\text{{positive}}",
    r"{}\text{{ thousandths}}", r"{}\text{{ score}}", "x{}", "{}y", "{}+y", r"{}\cdot z", r"{}+\alpha", r"{}\oplus",
    r"{}\text{{ minutes}}\text{{ wrong}}", r"{}\text{{ to the power}}", "{}-ish", "{}ish", "~{}?", r"{}\text{{-ish}}",
    r"{}\text{{ish}}", r"{}\text{{ modulo }}2", r"\text{{x}}{}", r"{}\text{{ factorial}}", r"{}\text{{ squared}}",
    r"{}\text{{ cubed}}", r"\text{{negative }}{}", r"\text{{minus }}{}", r"\text{{half of }}{}", r"\text{{twice }}{}",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(BOTH), GOLDS, GOLDS, st.booleans())
def test_who_says_two_things_has_said_neither(template: str, gold: str, other: str, first: bool) -> None:
    if accepted(other, gold) or accepted(gold, other):
        return
    answer = template.format(gold, other) if first else template.format(other, gold)
    if "approx" in template and other.isdigit() and len(other) > 2:
        return  # it may be a rounding, see the test of these
    if answer in FACTORIALS:
        return  # one thing, and true: 0! = 1
    assert not accepted(answer, gold)


@pytest.mark.parametrize("answer", FACTORIALS)
def test_a_factorial_and_its_value_are_one_thing(answer: str) -> None:
    left, right = answer.split("!=")
    assert accepted(answer, right)
    assert not accepted(answer, left)
    assert not accepted(f"{left}!={int(right) + 1}", str(int(right) + 1))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(WORDS), GOLDS)
def test_words_that_are_no_unit_spoil_a_number(template: str, gold: str) -> None:
    if gold in ("0", "x=0"):  # 0 thousand is 0
        gold = "1"
    assert not accepted(template.format(gold), gold)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 99), st.sampled_from([2, 3, 5, 7]), st.integers(1, 6), st.integers(-40, 40))
def test_only_a_rounding_may_stand_behind_an_exact_value(factor: int, root: int, places: int, off: int) -> None:
    exact, value = rf"{factor}\sqrt{{{root}}}", factor * math.sqrt(root)
    decimal = round(value, places) + off * 10.0**-places / 4
    rounds = abs(value - float(f"{decimal:.{places}f}")) < 10.0**-places
    answer = rf"{exact}\approx {decimal:.{places}f}"
    assert accepted(answer, exact) == rounds
    assert accepted(rf"x={exact}\approx {decimal:.{places}f}", exact) == rounds
    assert accepted(rf"{answer}\approx {off + 500}.5", exact) == (rounds and abs(value - off - 500.5) < 0.1)
    assert not accepted(rf"x\approx {exact}\approx {off + 500}.5", exact)


UNITS = ["cm", "m", "km", "kg", "seconds", "hours", "dollars", "degrees", "apples", "ways", "cm^2", "miles per hour"]


@settings(max_examples=100, deadline=None)
@given(NUMBERS, st.sampled_from(UNITS), st.sampled_from(UNITS))
def test_a_unit_fits_a_bare_number_and_itself(value: int, unit: str, other: str) -> None:
    name, _, power = unit.partition("^")
    answer = rf"{value}\text{{ {name}}}" + (f"^{power}" if power else "")
    assert accepted(answer, str(value))
    assert accepted(str(value), answer)
    name, _, power = other.partition("^")
    assert accepted(rf"{value} \text{{ {name}}}" + (f"^{power}" if power else ""), answer) == (unit == other)


@settings(max_examples=200, deadline=None)
@given(st.integers(-999, 999), st.integers(100, 999))
def test_a_list_is_no_number_with_thousands(first: int, last: int) -> None:
    merged = f"{first}{last}"
    for gold in (f"{first}, {last}", rf"{first} \text{{ and }} {last}", f"${first}$, ${last}$", f"{first};{last}"):
        assert not accepted(merged, gold)
        assert accepted(f"{last}, {first}", gold)
    assert not accepted(f"{first}, {last}", merged)
    # Without a space both readings are right, and nothing else is.
    tight = f"{first},{last}"
    assert accepted(f"{last}, {first}", tight)
    if first:
        assert accepted(merged, tight)
        assert accepted(rf"{first}{{,}}{last}", tight)
    assert not accepted(str(first), tight)
    assert not accepted(str(last), tight)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 12), st.integers(0, 59), st.integers(1, 12), st.integers(0, 59))
def test_a_time_of_day_is_no_quotient(hour: int, minute: int, other_hour: int, other_minute: int) -> None:
    gold = f"{hour}:{minute:02}"
    other = f"{other_hour}:{other_minute:02}"
    assert accepted(other, gold) == (gold == other)
    assert accepted(rf"{gold} \text{{ p.m.}}", gold)
    assert not accepted(rf"{gold}\text{{ a.m.}}", rf"{gold}\text{{ p.m.}}")
    for quotient in (fraction(hour, minute), f"{hour}/{minute}", str(hour / minute) if minute else "0"):
        assert not accepted(quotient, gold)
    assert not accepted(f"{2 * hour}:{2 * minute}", gold)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["x+y", "xy", "x^2+y^2", "2x-y", "a+3z", "y^2", "x^2", "y''+y", "|x|+|y|", "3x"]),
    st.sampled_from(["0", "1", "7", "-x+k", "k"]),
)
def test_an_equation_is_not_its_right_side(left: str, right: str) -> None:
    assert not accepted(right, f"{left}={right}")
    assert accepted(f"{left}={right}", f"{left}={right}")
    assert accepted(right, f"w={right}")


@given(st.permutations("ABCDE"), st.integers(2, 5), st.sampled_from([",", ", ", " ", " or ", "/", " and ", "", "; "]))
def test_several_letters_are_no_choice(letters: list[str], count: int, between: str) -> None:
    several = between.join(letters[:count])
    for response in (rf"\boxed{{{several}}}", rf"\boxed{{\text{{{several}}}}}"):
        assert extract_choice(response) is None
    if between.strip():
        assert extract_choice(f"The answer is {several}.") is None


@pytest.mark.parametrize("gold", ["5", "0", r"\frac{1}{2}", "1,2", "(1,2)", "x=5"])
def test_an_empty_or_unfinished_answer_is_wrong(gold: str) -> None:
    for answer in ("", " ", "?", r"\text{}", r"\frac{1}{", "=", ",", "x=", r"\ldots"):
        assert not accepted(answer, gold)
