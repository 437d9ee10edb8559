r"""Whether two canonical answers are the same mathematics. It imports sympy and may hang, so it runs in a worker.

1. The text tells what an answer is made of: lists, sets, tuples, intervals, unions, matrices, equations, inequalities,
   ratios (`structure`, `regions`, `names`). So the comparison does not depend on what the parser makes of a whole.
2. Expressions and numbers in it are compared by `algebra`.
"""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import chain
from typing import Any

import sympy

from s2l_nemo.rewards import structure
from s2l_nemo.rewards.algebra import (
    UncomparableError,
    UnreadableError,
    constant,
    equal,
    parse,
    parse_gold,
    proportional,
)
from s2l_nemo.rewards.names import adds_variables, names_quantity, renamed, same_function, variables
from s2l_nemo.rewards.nesting import TOO_DEEP, nested_too_deeply
from s2l_nemo.rewards.plain_numbers import exact_number, readings
from s2l_nemo.rewards.quick import decide, without_label
from s2l_nemo.rewards.readable import may_be_expression
from s2l_nemo.rewards.regions import looks_like_region, same_region
from s2l_nemo.rewards.structure import APPROXIMATE, COLON, COMMA, COMPARISON, EQUALS, UNEQUAL, UNION, VARIABLE, split
from s2l_nemo.rewards.units import split_unit

_FOR_ALL = re.compile(
    r",?(?:\\text\{for (?:all|any|every|each)[^{}]*\}|for (?:all|any|every|each) |\\forall ?)"
    r" ?[a-z](?:\\in ?\\mathbb\{[A-Z]\}|[<>]0|\\[lg]e ?0|\\ne ?0)?$"
)
_INTEGER = re.compile(r"[a-z]\\in ?\\mathbb\{[ZN]\}(?:\^\+|_\+)?")
_IN_BRACKETS = re.compile(rf"\(({_INTEGER.pattern})\)$")
_PREFIX = re.compile(  # of a set: `x\in`, `(x,y)\in`, `S=`
    rf"(?:{VARIABLE.pattern}|\({VARIABLE.pattern}(?:,{VARIABLE.pattern})+\))\\in ?|({VARIABLE.pattern})=(?=\\\{{)"
)
_EXCEPTION = re.compile(r"[a-z]\\ne ?[+-]?(?:\d+|\\frac\{\d+\}\{\d+\}|\\pi ?)")
_DIGITS_BEHIND_POINT = re.compile(r"-?\d*\.(\d{1,30})")
_WHOLE = re.compile(r"-?[1-9]\d{2,14}")
_NAMED_SET = re.compile(r"\\emptyset ?|\\mathbb\{[A-Z]\}(?:\^.*|_.*)?")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_PRODUCT = re.compile(r"(?<=[\d})])\(|(?<=\\pi)\(")
_CONSTANT = re.compile(r"(.*[^+\s])\+ ?(C|c|K|k|(?:C|c|K|k)_(?:\w|\{\w+\})|\\text\{constant\}|\\text\{const\.?\})")
_TIME = re.compile(r"(\d{1,2}):([0-5]\d)(?::([0-5]\d))?")
_OF_ZERO = re.compile(r"^-?\\(?:sin|tan|arcsin|arctan|sinh|tanh) ?(?:0|\{0\}|\(0\))(?:\^\\circ ?)?$")
_ZERO = re.compile(r"(?<![\d.])0(?![\d.])")
_LABEL_OF_POINT = re.compile(r"^[A-Z](?=\()")
_LETTER = re.compile(r"[A-Za-z]|\\[a-z]+")
_LETTERS = re.compile(r"[A-Za-z]")


def equivalent(gold: str, answer: str, tolerance: float = 0.0) -> bool:
    """Whether two canonical answers are equal. Raises UncomparableError if that cannot be told.

    Numbers may differ by the fraction `tolerance` of the gold number if one of them is not exact (`rewards.tolerance`).
    """
    answer = without_label(gold, answer)
    if nested_too_deeply(gold):
        raise UncomparableError(TOO_DEEP)
    failure: UncomparableError | None = None
    for one in readings(gold):
        for other in readings(answer):
            try:
                if _same_answer(one, other) or (tolerance > 0 and _near(one, other, tolerance)):
                    return True
            except UncomparableError as error:
                failure = error
    if failure is not None:
        raise failure
    return False


def _near(gold: str, answer: str, tolerance: float) -> bool:
    """Whether two numbers differ by no more than a fraction of the gold number, one of them being a decimal."""
    (gold, gold_unit), (answer, unit) = split_unit(gold, trusted=True), split_unit(answer)
    if (gold_unit is not None and unit is not None and gold_unit != unit) or "." not in gold + answer:
        return False
    try:
        left, right = constant(parse(gold)), constant(parse(answer))
    except UnreadableError:
        return False
    if left is None or right is None:
        return False
    return bool(abs(complex(left) - complex(right)) <= tolerance * abs(complex(left)))


def why_unreadable(gold: str) -> str | None:
    """Why a canonical gold answer cannot be compared as mathematics, in one line; None if it can."""
    if nested_too_deeply(gold):
        return TOO_DEEP
    failure = None
    for reading in readings(gold):
        try:
            # Whatever it is, it differs from this; all of its parts are read on the way.
            _read(reading)
        except UncomparableError as error:
            failure = str(error)
        except RecursionError:
            failure = TOO_DEEP
        else:
            return None
    return failure


def _read(text: str) -> None:
    """Reads every part of a gold answer. Raises UncomparableError for one that is no mathematics."""
    text, _ = _without_clauses(text)
    if looks_like_region(text) and same_region(text, text) is not None:
        return
    parts = structure.members(_PREFIX.sub("", text, count=1))
    if len(parts) == 1:
        parts = _components(parts[0])
    if parts == [text]:
        if decide(text, r"\zeta") is None and text != r"\ldots" and not _NAMED_SET.fullmatch(text):
            parse_gold(split_unit(text, trusted=True)[0])
        return
    for part in parts:
        _read(part)


def _components(member: str) -> list[str]:
    """The parts of a matrix, a tuple, a relation, an equation without its name, or a ratio; else the member itself."""
    table, components = structure.rows(member), structure.ordered(member)
    if table is not None:
        return [*chain.from_iterable(table)]
    if components is not None:
        return components[1]
    for separator in (APPROXIMATE, COMPARISON, UNEQUAL, EQUALS, COLON):
        sides = [side for side in split(member, separator) if side]
        if len(sides) > 1:
            return sides[1:] if separator is EQUALS and names_quantity(sides[0]) else sides
    return [member]


def _same_answer(gold: str, answer: str) -> bool:
    (gold, letters), (answer, others) = _without_clauses(gold), _without_clauses(answer)
    if len(letters) == len(others) == 1 and letters != others:  # n and k in `\mathbb{Z}` are two names for one thing
        answer = renamed(answer, *others, *letters) or answer
    if gold == answer:
        return bool(gold)
    if looks_like_region(gold) or looks_like_region(answer):
        same = same_region(gold, answer)
        if same is not None:
            return same
    return _same_lists(gold, answer)


def _without_clauses(text: str) -> tuple[str, frozenset[str]]:
    r"""Without what only says where a variable lives: `\text{ for all }x`, `k\in\mathbb{Z}`, `x\ne 1`.

    The second is the variables that are said to be integers.
    """
    text = structure.unwrapped(_IN_BRACKETS.sub(r",\1", _FOR_ALL.sub("", text)).strip())
    parts = split(text, COMMA)
    kept = [part for part in parts if not _INTEGER.fullmatch(part)]
    integers = frozenset(part[0] for part in parts if part not in kept)
    kept = [part for part in kept if not _EXCEPTION.fullmatch(part)]
    where = {part[0] for part in parts if part not in kept}
    rest = ",".join(kept)
    if not kept or not where or not where <= variables(rest) or (where > integers and looks_like_region(rest)):
        return text, frozenset()
    return rest, integers


def _same_lists(gold: str, answer: str) -> bool:
    """Whether two lists, sets or unions have the same members in any order. One thing is a list of one."""
    if (len(split(gold, UNION)) > 1) != (len(split(answer, UNION)) > 1):
        return False
    names = [match[1] for text in (gold, answer) if (match := _PREFIX.match(text)) and match[1]]
    if len(set(names)) > 1:
        return False
    golds, answers = (structure.members(_PREFIX.sub("", text, count=1)) for text in (gold, answer))
    if len(golds) == 1 and len(answers) == 1:
        return _same(golds[0], answers[0])
    if len(golds) != len(answers):
        golds, answers = _as_tuple(golds, answers), _as_tuple(answers, golds)
        return len(golds) == len(answers) == 1 and _same(golds[0], answers[0])
    sides = {EQUALS.split(part)[0] for part in golds if EQUALS.search(part)}
    if len(sides) > 1 and not any(EQUALS.search(part) for part in answers):  # x=1, y=2 against 1, 2: the order decides
        return all(_same(*pair) for pair in zip(golds, answers, strict=True))
    return _matched(golds, answers)


def _as_tuple(members: list[str], other: list[str]) -> list[str]:
    """`x=1, y=2` as `(1,2)` if it is compared with one tuple: values in the order of their names."""
    sides = [split(member, EQUALS) for member in members]
    named = all(len(side) == 2 and VARIABLE.fullmatch(side[0]) for side in sides)
    if not named or len(other) != 1 or len({side[0] for side in sides}) < len(sides):
        return members
    return [f"({','.join(value for _, value in sorted(sides))})"]


def _matched(golds: list[str], answers: list[str]) -> bool:
    """Whether the answers are the gold ones in some order. Equality is transitive, so the first match will do."""
    left = list(answers)
    for gold in golds:
        found = next((index for index, answer in enumerate(left) if _same(gold, answer)), None)
        if found is None:
            return False
        del left[found]
    return True


def _same(gold: str, answer: str) -> bool:
    """Whether two members are equal: equations, ratios, tuples, intervals, matrices, relations, or expressions."""
    gold, answer = (text[1].strip() if (text := _TEXT.fullmatch(one)) else one for one in (gold, answer))
    decided = decide(gold, answer)
    if decided is not None:
        return decided
    gold, answer = _without_approximation(gold, trusted=True), _without_approximation(answer)
    if len(split(gold, EQUALS)) > 1 or len(split(answer, EQUALS)) > 1:
        return _same_equations(split(gold, EQUALS), split(answer, EQUALS))
    if len(split(gold, COLON)) > 1 or len(split(answer, COLON)) > 1:
        return _same_ratios(gold, answer)
    gold_rows, rows = structure.rows(gold), structure.rows(answer)
    if gold_rows is not None and rows is not None:
        same_shape = list(map(len, gold_rows)) == list(map(len, rows))
        return same_shape and _all_same([*chain.from_iterable(gold_rows)], [*chain.from_iterable(rows)])
    left, right = structure.ordered(gold), structure.ordered(_LABEL_OF_POINT.sub("", answer))
    if left is not None or right is not None:
        return left is not None and right is not None and left[0] == right[0] and _all_same(left[1], right[1])
    for separator in (UNEQUAL, COMPARISON):
        if separator.search(gold) or separator.search(answer):
            return _same_relations(gold, answer, separator)
    return _same_values(gold, answer)


def _all_same(golds: list[str], answers: list[str]) -> bool:
    return len(golds) == len(answers) and all(_same_answer(*pair) for pair in zip(golds, answers, strict=True))


def _without_approximation(text: str, *, trusted: bool = False) -> str:
    r"""The exact one of `\frac13 \approx 0.33`; `x \approx 8.2` is an equation, and `5 \approx 7` is nothing.

    All that stands behind it must be roundings of it, but for the rounding of an irrational number in a gold answer.
    """
    parts = split(text, APPROXIMATE)
    if len(parts) == 1 or (len(parts) == 2 and not parts[0]):
        return parts[-1]
    name = f"{parts[0]}=" if names_quantity(parts[0]) else ""
    exact, *others = parts[1:] if name else parts
    if others and (structure.ordered(exact) is not None or COLON.search(exact)):
        return text
    value = exact_number(split_unit(exact)[0])
    for other in others:
        rounded = exact_number(split_unit(other)[0])
        if rounded is None or (value is not None and rounded != value and "/" not in exact and "frac" not in exact):
            return text
        if rounded != value and not (trusted and value is None) and not _rounds_to(exact, value, other):
            return text
    return name + exact


def _rounds_to(exact: str, value: Fraction | None, decimal: str) -> bool:
    """Whether a decimal is a number that was rounded or cut: 0.33 or 0.34 for 1/3, not 1 for 1/2.

    A whole number of three digits or more may be that of an irrational number: 314 for 100 pi.
    """
    decimal = split_unit(decimal)[0].strip()
    digits = _DIGITS_BEHIND_POINT.fullmatch(decimal)
    if value is not None:
        return digits is not None and abs(value - Fraction(digits[0])) < Fraction(1, 10 ** len(digits[1]))
    try:
        irrational = constant(parse(split_unit(exact)[0]))
    except UnreadableError:
        return False
    if irrational is None:
        return False
    error = abs(complex(irrational) - float(Fraction(decimal)))
    if digits is None:
        return _WHOLE.fullmatch(decimal) is not None and error <= 0.5
    return error < 10.0 ** -len(digits[1])


def _same_equations(golds: list[str], answers: list[str]) -> bool:
    """Whether two equations are equal, one of which may be a bare value: `x=5` counts as 5, `x+y=5` does not."""
    if len(golds) == 1:
        return (
            _consistent(answers)
            and (names_quantity(answers[0], loose=True) or _is_true(answers))
            and _same_answer(golds[0], answers[-1])
        )
    if len(answers) == 1:
        return names_quantity(golds[0]) and _same_answer(golds[-1], answers[0])
    if arguments := same_function(golds[0], answers[0]):
        value = renamed(answers[-1], arguments[1], arguments[0])
        return value is not None and _same_answer(golds[-1], value)
    if golds[0] == answers[0] and names_quantity(golds[0]):
        return _consistent(answers) and _same_answer(golds[-1], answers[-1])
    if len(golds) > 2 or len(answers) > 2:
        return False
    try:
        left, right = [parse_gold(side) for side in golds], [parse(side) for side in answers]
    except UnreadableError:
        return False
    if not all(isinstance(side, sympy.Expr) for side in [*left, *right]):
        return False
    return proportional(left[0] - left[1], right[0] - right[1])


def _consistent(sides: list[str]) -> bool:
    """Whether a chain of equations says one thing: its letter comes once, plain numbers are equal, all is readable."""
    if _LETTER.fullmatch(sides[0]) and any(sides[0] in variables(side) for side in sides[1:]):
        return False
    values = [exact_number(split_unit(side)[0]) for side in sides[1:]]
    plain = {value for value in values if value is not None}
    if len(plain) > 1 or (plain and values[-1] is None and (variables(sides[-1]) or structure.ordered(sides[-1]))):
        return False
    middle = [split_unit(side)[0] for side in sides[1:-1]]
    return all(may_be_expression(side) or _same_values_or_not(sides[-1], side) for side in middle)


def _is_true(sides: list[str]) -> bool:
    """Whether an equation between numbers holds: `20+14=34`."""
    if any(_LETTERS.search(re.sub(r"\\[A-Za-z]+", "", side)) for side in sides):
        return False
    return all(_same_values_or_not(sides[-1], side) for side in sides[:-1])


def _same_values_or_not(left: str, right: str) -> bool:
    """Whether two sides of a chain are equal. In a chain, `2(3)` can only be a product."""
    try:
        return equal(*(parse(_PRODUCT.sub(r"\\cdot(", split_unit(side)[0])) for side in (left, right)))
    except UnreadableError:
        return False


def _same_ratios(gold: str, answer: str) -> bool:
    """Times of day digit by digit, ratios side by side, and a ratio of two against a quotient."""
    (gold, gold_unit), (answer, unit) = split_unit(gold, trusted=True), split_unit(answer)
    if gold_unit is not None and unit is not None and gold_unit != unit:
        return False
    times = [_TIME.fullmatch(text) for text in (gold, answer)]
    # `4:10` may be a ratio where the gold answer is 2:5, `4:05` is none.
    if times[0] or (times[1] and (times[1][2].startswith("0") or not COLON.search(gold))):
        clocks = [[int(part) for part in match.groups() if part] for match in times if match]
        return len(clocks) == 2 and clocks[0] == clocks[1]
    golds, answers = split(gold, COLON), split(answer, COLON)
    if len(golds) == len(answers):
        pairs = zip(golds[1:], answers[1:], strict=True)
        return all(_same_values(rf"({g})\cdot({answers[0]})", rf"({a})\cdot({golds[0]})") for g, a in pairs) and not (
            _is_zero(answers[0]) or _is_zero(golds[0])
        )
    ratio, other = (golds, answers[0]) if len(golds) == 2 else (answers, golds[0])
    value = exact_number(other)
    if len(ratio) != 2 or len(golds) + len(answers) != 3 or value is None or value.denominator == 1:
        return False
    quotient = rf"\frac{{{ratio[0]}}}{{{ratio[1]}}}"
    return _same_values(quotient, other) if ratio is golds else _same_values(other, quotient)


def _is_zero(text: str) -> bool:
    return exact_number(text) == 0


def _same_relations(gold: str, answer: str, separator: re.Pattern[str]) -> bool:
    """Whether two chains of inequalities are the same side by side, or differ by a factor."""
    (golds, gold_signs), (answers, signs) = _chain(gold, separator), _chain(answer, separator)
    if gold_signs != signs:
        return False
    if _all_same(golds, answers) or (separator is UNEQUAL and _all_same(golds, answers[::-1])):
        return True
    if len(golds) != 2:
        return False
    try:
        left, right = [parse_gold(side) for side in golds], [parse(side) for side in answers]
    except UnreadableError:
        return False
    if not all(isinstance(side, sympy.Expr) for side in [*left, *right]):
        return False
    return proportional(left[0] - left[1], right[0] - right[1], positive=separator is COMPARISON)


def _chain(text: str, separator: re.Pattern[str]) -> tuple[list[str], list[str]]:
    r"""Sides and signs of a chain, all of them < or \le if all point the same way."""
    signs = [sign.strip() for sign in separator.findall(text)]
    sides = [side.strip() for side in separator.split(text)]
    if signs and all(sign in (">", r"\ge") for sign in signs):
        return sides[::-1], [{">": "<", r"\ge": r"\le"}[sign] for sign in signs[::-1]]
    return sides, signs


def _same_values(gold: str, answer: str) -> bool:
    """Whether two expressions are equal, with or without units; see `quick` for what units mean."""
    gold_value, gold_unit = split_unit(gold, trusted=True)
    value, unit = split_unit(answer, also=gold_unit)
    if gold_unit is not None and unit is not None and gold_unit != unit:
        return False
    if exact_number(gold_value) == 0 and exact_number(value) is None and _ZERO.search(_OF_ZERO.sub("", value)):
        return False  # something times 0
    if _NAMED_SET.fullmatch(gold_value):
        return False
    left = parse_gold(gold_value)
    sums = _CONSTANT.fullmatch(gold_value), _CONSTANT.fullmatch(value)
    if sums[0] and sums[1] and _is_integration(*sums[0].groups(), *sums[1].groups()):
        gold_value, value = sums[0][1], sums[1][1]
        left = parse_gold(gold_value)
    if adds_variables(gold_value, value):
        return False
    try:
        right = parse(value)
    except UnreadableError:  # an answer that is no mathematics is wrong
        return False
    if equal(left, right):
        return True
    if (gold_unit == "%") == (unit == "%") or not _is_number(left, right):
        return False
    return equal(left, right / 100) if unit == "%" else equal(left / 100, right)


def _is_integration(gold: str, gold_constant: str, answer: str, constant_name: str) -> bool:
    """Whether the last terms of two sums are constants of integration: C of a function in small letters."""
    names = variables(gold)
    small = bool(names) and not any(name.isupper() for name in names)
    return small and gold_constant[0] == "C" and constant_name[0] not in variables(answer)


def _is_number(*values: Any) -> bool:
    return all(isinstance(value, sympy.Expr) for value in values)
