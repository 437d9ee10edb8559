r"""Sets of real numbers, however they are written, as sympy sets: intervals, unions, inequalities, set-builders.

`(1,2)`, `1 < x < 2`, `\{x \mid 1 < x < 2\}`, `x>1 \text{ and } x<2` are one set. `|x| \le 1` is solved.
"""

from __future__ import annotations

import re
from functools import reduce
from typing import Any

import sympy

from s2l_nemo.rewards import structure
from s2l_nemo.rewards.algebra import UnreadableError, constant, equal, parse
from s2l_nemo.rewards.structure import COMPARISON, MEMBER, UNEQUAL, VARIABLE

_MARKS = re.compile(
    r"<|>|\\(?:cup|cap|setminus|le|ge|ne|in|notin|mathbb|emptyset|infty)(?![A-Za-z])|\\\{[^|:]*[|:].*\\\}|\\\{\\\}"
)
_HALF_OPEN = re.compile(r"\[.*\)|\(.*\]")
_BUILDER = re.compile(r"([^|:]*?)(?:\\in ?\\mathbb\{R\})?[|:](.*)", re.DOTALL)
_NOT_IN = re.compile(r"\\notin(?![A-Za-z]) ?")
_REALS = {r"\mathbb{R}": sympy.S.Reals, r"\emptyset": sympy.S.EmptySet}
_SIGNS = {"<": sympy.StrictLessThan, ">": sympy.StrictGreaterThan, r"\le": sympy.LessThan, r"\ge": sympy.GreaterThan}

_Named = tuple[str | None, Any]  # the variable, if one is named, and the set


class _NoSetError(Exception):
    """The text is no set of reals, or none that can be computed."""


def looks_like_region(text: str) -> bool:
    """Whether a text can only be a set of reals, an inequality or a membership."""
    return bool(_MARKS.search(text) or _HALF_OPEN.fullmatch(text))


def same_region(gold: str, answer: str) -> bool | None:
    """Whether two texts are the same set of reals. None if one of them cannot be read as one."""
    try:
        (gold_name, left), (name, right) = _region(gold), _region(answer)
        if gold_name is not None and name is not None and gold_name != name:
            return False
        first, second = _pieces(left), _pieces(right)
    except (_NoSetError, UnreadableError):
        return None
    return len(first) == len(second) and all(_same_piece(*pair) for pair in zip(first, second, strict=True))


def _region(text: str) -> _Named:
    text = structure.unwrapped(text)
    for separator, join in ((structure.OR, sympy.Union), (structure.COMMA, _and), (structure.UNION, sympy.Union)):
        parts = structure.split(text, separator)
        if len(parts) > 1:
            return _joined([_region(part) for part in parts], join)
    parts = structure.split(text, structure.INTERSECTION)
    if len(parts) > 1:
        return _joined([_region(part) for part in parts], sympy.Intersection)
    parts = structure.split(text, structure.WITHOUT)
    if len(parts) > 1:
        return _joined([_region(part) for part in parts], sympy.Complement)
    return _single(text)


def _joined(parts: list[_Named], join: Any) -> _Named:
    names = {name for name, _ in parts if name is not None}
    if len(names) > 1 or (join is _and and any(name is None for name, _ in parts)):
        raise _NoSetError
    sets = [one for _, one in parts]
    if join is sympy.Union and any(left is not right and left.is_subset(right) for left in sets for right in sets):
        raise _NoSetError  # a set that adds nothing is a second answer
    if join is sympy.Complement and any(sympy.Intersection(sets[0], one) is sympy.S.EmptySet for one in sets[1:]):
        raise _NoSetError
    return (names.pop() if names else None), reduce(join, sets)


def _and(left: Any, right: Any) -> Any:
    """What lies in both; if nothing does, `x<1, x>2` means what lies in one of them."""
    both = sympy.Intersection(left, right)
    return sympy.Union(left, right) if both is sympy.S.EmptySet else both


def _single(text: str) -> _Named:
    """A set without operations on sets."""
    if text in _REALS:
        return None, _REALS[text]
    if COMPARISON.search(text) and not text.startswith(r"\{"):
        return _comparison(text)
    for separator in (MEMBER, _NOT_IN, UNEQUAL):
        parts = structure.split(text, separator)
        if len(parts) == 2 and VARIABLE.fullmatch(parts[0]):
            values = [_real(value) for value in structure.members(parts[1])] if separator is UNEQUAL else []
            inner = sympy.FiniteSet(*values) if separator is UNEQUAL else _region(parts[1])[1]
            return parts[0], inner if separator is MEMBER else sympy.Complement(sympy.S.Reals, inner)
    inner_text = structure.braced(text)
    if inner_text is not None:
        return _braced(inner_text)
    interval = structure.ordered(text)
    if interval is None or len(interval[1]) != 2:
        raise _NoSetError
    brackets, (low, high) = interval[0], (_real(end) for end in interval[1])
    if not low < high:
        raise _NoSetError
    return None, sympy.Interval(low, high, brackets[0] == "(", brackets[1] == ")")


def _braced(inner: str) -> _Named:
    builder = _BUILDER.fullmatch(inner)
    if builder is not None and VARIABLE.fullmatch(builder[1].strip()):
        name, region = _region(builder[2].strip())
        if name != builder[1].strip():
            raise _NoSetError
        return None, region
    if structure.braced(inner) is not None:  # a set of sets
        raise _NoSetError
    members = [member for member in structure.members(inner) if member]
    return None, sympy.FiniteSet(*[_real(member) for member in members])


def _comparison(text: str) -> _Named:
    """A chain of inequalities in one variable."""
    signs = [sign.strip() for sign in COMPARISON.findall(text)]
    sides = [parse(side.strip()) for side in COMPARISON.split(text)]
    symbols = {symbol for side in sides for symbol in getattr(side, "free_symbols", ())}
    if len(symbols) != 1 or not all(isinstance(side, sympy.Expr) for side in sides):
        raise _NoSetError
    symbol = symbols.pop()
    found = sympy.S.Reals
    for sign, left, right in zip(signs, sides[:-1], sides[1:], strict=True):
        found = sympy.Intersection(found, _solved(symbol, sign, left, right))
    return str(symbol), found


def _solved(symbol: Any, sign: str, left: Any, right: Any) -> Any:
    """The values of a variable for which an inequality holds."""
    if left == symbol and not right.free_symbols:
        bound = _real_value(right)
        ends = (-sympy.oo, bound) if sign in ("<", r"\le") else (bound, sympy.oo)
        closed = sign in (r"\le", r"\ge")
        return sympy.Interval(*ends, left_open=not closed, right_open=not closed)
    if right == symbol and not left.free_symbols:
        mirrored = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}
        return _solved(symbol, mirrored[sign], right, left)
    real = sympy.Symbol("x", real=True)
    try:
        return _SIGNS[sign](left.doit().subs(symbol, real), right.doit().subs(symbol, real)).as_set()
    except (NotImplementedError, TypeError, ValueError, AttributeError) as error:  # what sympy cannot solve
        raise _NoSetError from error


def _real(text: str) -> Any:
    """An end of an interval or a member of a set."""
    return _real_value(parse(re.sub(r"\^\\circ ?$", "", text).removeprefix("+")))


def _real_value(value: Any) -> Any:
    if not isinstance(value, sympy.Expr) or value.free_symbols:
        raise _NoSetError
    value = value.doit()
    number = constant(value)
    if number is None or not value.is_extended_real:
        raise _NoSetError
    return value


def _pieces(region: Any) -> list[tuple[Any, Any, bool, bool]]:
    """The intervals of a set from left to right: ends, and whether they are open. A point is an interval."""
    if region is sympy.S.Reals:
        region = sympy.Interval(-sympy.oo, sympy.oo)
    found: list[tuple[Any, Any, bool, bool]] = []
    for part in region.args if isinstance(region, sympy.Union) else (region,):
        if isinstance(part, sympy.Interval):
            found.append((part.start, part.end, bool(part.left_open), bool(part.right_open)))
        elif isinstance(part, sympy.FiniteSet):
            found += [(point, point, False, False) for point in part.args]
        elif part is not sympy.S.EmptySet:
            raise _NoSetError
    return sorted(found, key=lambda piece: (float(piece[0]), float(piece[1])))


def _same_piece(left: tuple[Any, Any, bool, bool], right: tuple[Any, Any, bool, bool]) -> bool:
    return left[2:] == right[2:] and equal(left[0], right[0]) and equal(left[1], right[1])
