r"""Whether two normalised answers are the same mathematics. It imports sympy and may hang, so it runs in a worker.

1. The text tells what an answer is made of: lists, sets, tuples, intervals, unions, matrices, equations, inequalities.
   So the comparison is symmetric.
2. math-verify's parser (latex2sympy2) reads the expressions in it. A decimal becomes an exact fraction, so a rounded
   value differs from the exact one.
3. Expressions are compared as numbers of 30 digits. If they have variables, they are compared at sample points.
4. What cannot be computed so goes to math-verify's `verify`.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from itertools import chain
from typing import Any

import mpmath
import sympy
from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify import verify
from sympy.core.function import AppliedUndef

from s2l_nemo.rewards.answers import decide, exact_number, split_unit

DIGITS = 30
_BITS = 110
_RELATIVE = mpmath.mpf("1e-25")
_ZERO = mpmath.mpf("1e-50")  # a smaller value is the rounding of an exact zero
MAX_LOG10 = 1e5  # a number of more digits is not computed
MAX_NODES = 3000  # of the tree of an expression
_LATEX = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none", equations=False
)
_SYMBOLS = ConversionConfig(lowercase_symbols=False)
_BRACKET = re.compile(r"\\begin\{\w+\}|\\end\{\w+\}|\\[{}|]|\\[lr]angle(?![A-Za-z])|\\[A-Za-z]+|\\.|[()\[\]{}]")
_OPEN = ("(", "[", "{", r"\{", r"\langle")
_CLOSE = (")", "]", "}", r"\}", r"\rangle")
_LIST_SEPARATOR = re.compile("[,;]")
_UNION = re.compile(r"\\cup(?![A-Za-z])")
_EQUALS = re.compile(r"(?<![<>!\\])=")
_COMPARISON = re.compile(r"<|>|\\le |\\ge |\\le(?![A-Za-z])|\\ge(?![A-Za-z])")
_MEMBER = re.compile(r"[A-Za-z]\s*\\in(?![A-Za-z])\s*")
_MATRIX = re.compile(r"\\begin\{([pb]?matrix|array)\}(?:\{[lcr|]*\})?((?:(?!\\begin).)*)\\end\{\1\}")
_VARIABLE = re.compile(r"\\?[A-Za-z]+(?:_\w|_\{\w+\})?")
_DECIMAL = re.compile(r"(\d*)\.(\d+)")
_IN_BRACKETS = re.compile(r"\([^()]*\)|[\^_](?:\w|\{[^{}]*\})")
# Values of the variables in alphabetical order, mixed in sign and size. Functions that want naturals get naturals.
_POINTS = [(3, 7), (-5, 3), (11, 5), (2, 9), (-13, 11), (17, 4), (1, 13), (-19, 7)]
_NATURALS = [7, 12, 5, 9, 16, 11, 8, 14]
_DISCRETE = (sympy.floor, sympy.ceiling, sympy.factorial, sympy.Mod, sympy.binomial)


class UncomparableError(Exception):
    """A check that cannot be done, with its reason in one line. It is no verdict."""


def equivalent(gold: str, answer: str) -> bool:
    """Whether two normalised answers are equal. Raises UncomparableError if that cannot be told."""
    gold_kind, golds = _parts(gold)
    kind, answers = _parts(answer)
    if len(golds) == 1 and len(answers) == 1:
        return _same(golds[0], answers[0])
    if kind != gold_kind or len(golds) != len(answers):
        return False
    names = {_EQUALS.split(part)[0] for part in golds if _EQUALS.search(part)}
    if len(names) > 1 and not any(_EQUALS.search(part) for part in answers):  # x=1, y=2 against 1, 2: the order decides
        return all(_same(*pair) for pair in zip(golds, answers, strict=True))
    return _matched(golds, answers)


def why_unreadable(gold: str) -> str | None:
    """Why a normalised gold answer cannot be compared as mathematics, in one line; None if it can."""
    try:
        for part in _parts(gold)[1]:
            _read(part)
    except UncomparableError as error:
        return str(error)
    except RecursionError:
        return "nested too deeply to check"
    return None


def _read(member: str) -> None:
    """Parses every expression in a member. Raises UncomparableError for one that cannot be read."""
    ordered, rows = _ordered(member), _rows(member)
    inner = [*chain.from_iterable(rows)] if rows is not None else ordered[1] if ordered is not None else None
    if inner is not None:
        for part in inner:
            _read(part)
        return
    for side in _COMPARISON.split(member):
        for piece in _split(side, _EQUALS):
            _parse_gold(split_unit(piece.strip())[0])


def _matched(golds: list[str], answers: list[str]) -> bool:
    """Whether the answers are the gold ones in some order. Equality is transitive, so the first match will do."""
    left = list(answers)
    for gold in golds:
        found = next((index for index, answer in enumerate(left) if _same(gold, answer)), None)
        if found is None:
            return False
        del left[found]
    return True


def _parts(text: str) -> tuple[str, list[str]]:
    """Kind and members of a list, a set, or a union of intervals. Their order does not matter."""
    text = _MEMBER.sub("", text, count=1) if _MEMBER.match(text) else text
    while text.startswith("(") and text.endswith(")") and _closes_at_end(text) and _ordered(text) is None:
        text = text[1:-1].strip()
    members = [part for piece in _split(text, _UNION) for part in _expand(piece)]
    if len(_split(text, _UNION)) > 1:
        return "union", members
    if len(members) > 1 and all(_COMPARISON.search(member) for member in members):  # x < 2 or x > 3
        return "union", members
    return "list", members


def _expand(text: str) -> list[str]:
    r"""Members of a list. Set braces are removed, and each \pm gives two members."""
    inner = text[2:-2] if text.startswith(r"\{") and _closes_at_end(text) else text
    members = []
    for part in _split(inner, _LIST_SEPARATOR):
        if re.search(r"\\[pm]{2}(?![A-Za-z])", part):
            signs = (("+", "-"), ("-", "+"))
            members += [re.sub(r"\\pm(?![A-Za-z])", p, re.sub(r"\\mp(?![A-Za-z])", m, part)) for p, m in signs]
        else:
            members.append(part)
    return [member.strip() for member in members]


def _split(text: str, separator: re.Pattern[str]) -> list[str]:
    """The texts between those separators that stand outside of all brackets."""
    depths = _depths(text)
    pieces, start = [], 0
    for match in separator.finditer(text):
        if depths[match.start()] == 0:
            pieces.append(text[start : match.start()])
            start = match.end()
    return [*pieces, text[start:]]


@lru_cache(maxsize=1024)  # each answer of a group meets the same gold
def _depths(text: str) -> tuple[int, ...]:
    """How many brackets are open at each character; `(3,4]` counts as a pair."""
    depths, depth, position = [], 0, 0
    for match in _BRACKET.finditer(text):
        depths += [depth] * (match.start() - position)
        token, position = match.group(), match.end()
        opens, closes = token in _OPEN or token.startswith(r"\begin"), token in _CLOSE or token.startswith(r"\end")
        depth += opens
        depths += [depth] * len(token)
        depth -= closes
    return (*depths, *[depth] * (len(text) - position))


def _closes_at_end(text: str) -> bool:
    """Whether the bracket that opens the text is closed by its last character and not before."""
    depth = 0
    for match in _BRACKET.finditer(text):
        token = match.group()
        depth += token in _OPEN or token.startswith(r"\begin")
        depth -= token in _CLOSE or token.startswith(r"\end")
        if depth <= 0:
            return depth == 0 and match.end() == len(text)
    return False


def _same(gold: str, answer: str) -> bool:
    """Whether two members are equal: tuples, intervals, matrices, relations, or expressions."""
    decided = decide(gold, answer)
    if decided is not None:
        return decided
    gold_rows, rows = _rows(gold), _rows(answer)
    if gold_rows is not None and rows is not None:
        same_shape = list(map(len, gold_rows)) == list(map(len, rows))
        return same_shape and _all_same([*chain.from_iterable(gold_rows)], [*chain.from_iterable(rows)])
    gold, answer = _as_interval(gold, answer), _as_interval(answer, gold)
    left, right = _ordered(gold), _ordered(answer)
    if left is not None or right is not None:
        return left is not None and right is not None and left[0] == right[0] and _all_same(left[1], right[1])
    if _COMPARISON.search(gold) or _COMPARISON.search(answer):
        return _same_relations(gold, answer)
    return _same_equations(gold, answer)


def _same_relations(gold: str, answer: str) -> bool:
    """Whether two inequalities are the same. They are no intervals of one variable."""
    parsed = _parse_gold(gold)
    try:
        return bool(_COMPARISON.search(answer)) and _verified(parsed, _parse(answer))
    except _UnreadableError:
        return False


def _all_same(golds: list[str], answers: list[str]) -> bool:
    return len(golds) == len(answers) and all(equivalent(*pair) for pair in zip(golds, answers, strict=True))


def _rows(text: str) -> list[list[str]] | None:
    """The rows of a matrix; a tuple is a column. None for anything else."""
    if match := _MATRIX.fullmatch(text):
        lines = [line for line in re.split(r"\\\\(?:\[[^\]]*\])?", match.group(2)) if line.strip()]
        return [[cell.strip() for cell in line.split("&")] for line in lines]
    ordered = _ordered(text)
    return None if ordered is None or ordered[0] != "()" else [[cell] for cell in ordered[1]]


def _ordered(text: str) -> tuple[str, list[str]] | None:
    """Brackets and components of a tuple or an interval; None for anything else."""
    for opening, closing in (("(", ")"), ("[", "]"), ("(", "]"), ("[", ")"), (r"\langle", r"\rangle")):
        if text.startswith(opening) and text.endswith(closing) and _closes_at_end(text):
            parts = _split(text[len(opening) : -len(closing)], _LIST_SEPARATOR)
            if len(parts) > 1:
                return "()" if opening == r"\langle" else opening + closing, [part.strip() for part in parts]
    return None


def _as_interval(text: str, other: str) -> str:
    r"""`2 < x \le 7` as `(2,7]`, `x \ge 5` as `[5,\infty)`. If `other` is about another variable, the text as it is."""
    read, opposite = _inequality(text), _inequality(other)
    if read is None or (opposite is not None and opposite[0] != read[0]):
        return text
    return read[1]


def _inequality(text: str) -> tuple[str, str] | None:
    """Variable and interval of an inequality that bounds one variable by values; None for anything else."""
    signs = [sign.strip() for sign in _COMPARISON.findall(text)]
    sides = [side.strip() for side in _COMPARISON.split(text)]
    if not signs or any(not side for side in sides):
        return None
    if all(sign in (">", r"\ge") for sign in signs):
        sides, signs = sides[::-1], signs[::-1]
    elif not all(sign in ("<", r"\le") for sign in signs):
        return None
    closed = ["e" in sign for sign in signs]
    if len(sides) == 3 and _VARIABLE.fullmatch(sides[1]):
        return sides[1], f"{'(['[closed[0]]}{sides[0]},{sides[2]}{')]'[closed[1]]}"
    if len(sides) != 2:
        return None
    if _VARIABLE.fullmatch(sides[0]):
        return sides[0], rf"(-\infty,{sides[1]}{')]'[closed[0]]}"
    if _VARIABLE.fullmatch(sides[1]):
        return sides[1], rf"{'(['[closed[0]]}{sides[0]},\infty)"
    return None


def _same_equations(gold: str, answer: str) -> bool:
    """Whether two expressions or equations are equal. `x=5` counts as 5 if the other one names nothing."""
    golds, answers = _split(gold, _EQUALS), _split(answer, _EQUALS)
    if len(golds) == 1 and len(answers) == 1:
        return _same_values(gold, answer)
    if len(golds) == 1 or len(answers) == 1:
        named = golds if len(answers) == 1 else answers
        return _names(named[0]) and _same(golds[-1].strip(), answers[-1].strip())
    if golds[0].strip() == answers[0].strip() and _names(golds[0]):
        return _same(golds[-1].strip(), answers[-1].strip())
    if len(golds) > 2 or len(answers) > 2:
        return False
    try:
        left, right = [_parse_gold(side) for side in golds], [_parse(side) for side in answers]
    except _UnreadableError:
        return False
    return _proportional(left[0] - left[1], right[0] - right[1])


def _names(side: str) -> bool:
    """Whether the left of an equation names a quantity (`x`, `f(2)`, `a+b`), rather than being part of the answer."""
    return bool(re.search("[A-Za-z]", side)) and not re.search(r"\d", _IN_BRACKETS.sub("", side))


def _same_values(gold: str, answer: str) -> bool:
    """Whether two expressions are equal, with or without units; see `answers` for what units mean."""
    gold_value, gold_unit = split_unit(gold)
    value, unit = split_unit(answer)
    left = _parse_gold(gold_value)
    try:
        right = _parse(value)
    except _UnreadableError:  # an answer that is no mathematics is wrong
        return False
    if _equal(left, right):
        return True
    if (gold_unit == "%") == (unit == "%") or not isinstance(right, sympy.Expr):
        return False
    return _equal(left, right / 100) if unit == "%" else _equal(left / 100, right)


class _UnreadableError(Exception):
    pass


def _parse_gold(text: str) -> Any:
    try:
        return _parse(text)
    except _UnreadableError as error:
        raise UncomparableError(f"the gold answer cannot be read as mathematics: {text[:80]!r}") from error


@lru_cache(maxsize=4096)
def _parse(text: str) -> Any:
    """The sympy expression of one piece of LaTeX."""
    value = exact_number(text)
    if value is not None:
        return sympy.Rational(value.numerator, value.denominator)
    text = _DECIMAL.sub(lambda m: rf"\frac{{{int(m.group(1) + m.group(2))}}}{{{10 ** len(m.group(2))}}}", text)
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", text)
    try:
        latex = normalize_latex(text, _LATEX)
        parsed = latex2sympy(  # no assumptions on symbols, so that both sides have the same ones
            latex, is_real=None, convert_degrees=False, normalization_config=None, conversion_config=_SYMBOLS
        )
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # syntax errors are bare Exceptions, and its bugs raise others
        raise _UnreadableError(text) from error
    if isinstance(parsed, sympy.Basic):
        _refuse_giants(parsed)
        parsed = parsed.xreplace({sympy.Symbol("i"): sympy.I})
    return parsed


def _refuse_giants(expression: Any) -> None:
    """Raises UncomparableError for a tree or a number that is too large to compute."""
    for count, _ in enumerate(sympy.preorder_traversal(expression)):
        if count > MAX_NODES:
            raise UncomparableError("the expression is too large to compare")
    _log10(expression)


def _log10(expression: Any) -> float:
    """About log10 of the largest absolute value that occurs in computing the expression. Variables count as 10."""
    inner = [_log10(argument) for argument in expression.args]
    size = 1.0
    if isinstance(expression, sympy.Rational):
        size = math.log10(max(abs(expression.p), expression.q, 1))
    elif isinstance(expression, sympy.Pow) and isinstance(expression.exp, sympy.Rational):
        size = inner[0] * max(abs(float(expression.exp)) if inner[1] < 300 else math.inf, 1.0)
    elif isinstance(expression, (sympy.Pow, sympy.exp)):
        size = max(inner[0] if len(inner) == 2 else 1.0, 1.0) * 10.0 ** min(inner[-1], 12)
    elif isinstance(expression, (sympy.factorial, sympy.gamma, sympy.binomial)):
        size = 10.0 ** min(inner[0], 12) * max(inner[0], 1.0)
    elif inner:
        size = sum(inner)
    if size > MAX_LOG10:
        raise UncomparableError("a number in the answers is too large to compute")
    return size


def _equal(gold: Any, answer: Any) -> bool:
    """Whether two parsed expressions are equal. Numbers are compared as numbers."""
    if gold == answer:
        return True
    if not (isinstance(gold, sympy.Expr) and isinstance(answer, sympy.Expr)):
        return _verified(gold, answer)
    values = _values(gold, answer)
    if values is None:
        return _verified(gold, answer)
    return all(_close(*pair) for pair in values)


def _proportional(gold: Any, answer: Any) -> bool:
    """Whether two left sides of `... = 0` differ by a constant factor."""
    values = _values(gold, answer)
    if values is None:
        return _verified(sympy.Eq(gold, 0), sympy.Eq(answer, 0))
    with mpmath.workdps(DIGITS):
        (first_gold, first), *others = [(_inexact(left), _inexact(right)) for left, right in values]
        return bool(first and first_gold) and all(_close(g * first, a * first_gold) for g, a in others)


def _values(gold: Any, answer: Any) -> list[tuple[Any, Any]] | None:
    """Values of both at the sample points. Without variables there is one point. None if one of them is no number."""
    if gold.has(AppliedUndef) or answer.has(AppliedUndef):
        return None
    symbols = tuple(sorted(gold.free_symbols | answer.free_symbols, key=str))
    if not symbols:
        values = _constant(gold), _constant(answer)
        return None if None in values else [values]
    discrete = gold.has(*_DISCRETE) or answer.has(*_DISCRETE)
    found: list[tuple[Any, Any]] = []
    for shift in range(len(_POINTS)):
        left, right = _sample(gold, symbols, shift, discrete), _sample(answer, symbols, shift, discrete)
        if left is not None and right is not None:
            found.append((left, right))
            if not _close(left, right) and len(found) > 3:
                break
    return found if len(found) >= 3 else None


@lru_cache(maxsize=4096)
def _sample(expression: Any, symbols: tuple[Any, ...], shift: int, discrete: bool) -> Any:
    """The value of an expression at one of the sample points, as `_value` gives it."""
    point = {}
    for index, symbol in enumerate(symbols):
        place = (shift + 3 * index) % len(_POINTS)
        top, bottom = (_NATURALS[place] + index, 1) if discrete else _POINTS[place]
        point[symbol] = sympy.Rational(top + index, bottom)
    return _value(expression, point)


@lru_cache(maxsize=4096)
def _constant(expression: Any) -> Any:
    """The value of an expression without variables: exact if it is rational or infinite, else as `_value` gives it."""
    expression = expression.doit()
    exact = (sympy.Rational, sympy.core.numbers.Infinity, sympy.core.numbers.NegativeInfinity)
    return expression if isinstance(expression, exact) else _value(expression, None)


def _value(expression: Any, point: dict[Any, Any] | None) -> Any:
    """The value of an expression at a point, a complex number of 30 digits (mpmath); None if it has none."""
    value = expression.evalf(DIGITS, subs=point)
    if not value.is_number or not value.is_finite:
        return None
    parts = value.as_real_imag()
    if not all(part.is_Float or part.is_Rational for part in parts):
        return None
    with mpmath.workprec(_BITS):
        return mpmath.mpc(*(part._to_mpmath(_BITS) for part in parts))


def _inexact(value: Any) -> Any:
    if not isinstance(value, sympy.Basic):
        return value
    return mpmath.mpf(value.p) / value.q if value.is_Rational else mpmath.inf


def _close(left: Any, right: Any) -> bool:
    """Whether two values are equal: rational and infinite ones exactly, others to 25 digits."""
    if isinstance(left, sympy.Basic) and isinstance(right, sympy.Basic):
        return bool(left == right)
    with mpmath.workdps(DIGITS):
        left, right = _inexact(left), _inexact(right)
        size = max(abs(left), abs(right))
        return bool(mpmath.isfinite(size) and (abs(left - right) <= size * _RELATIVE or size < _ZERO))


def _verified(gold: Any, answer: Any) -> bool:
    # Time-outs of math-verify need signals of the main thread. The worker has its own limits.
    return bool(verify(gold, answer, timeout_seconds=None))
