r"""Expressions: read by math-verify's parser (latex2sympy2), compared as numbers of 30 digits. It imports sympy.

A decimal becomes an exact fraction, so a rounded value differs from the exact one. Expressions with variables are
compared at sample points. What has no value goes to math-verify's `verify`.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Any

import mpmath
import sympy
from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify import verify
from sympy.concrete.expr_with_limits import ExprWithLimits
from sympy.core.function import AppliedUndef

from s2l_nemo.rewards.plain_numbers import exact_number
from s2l_nemo.rewards.readable import may_be_expression

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
_DECIMAL = re.compile(r"(\d*)\.(\d+)")
_SQUARE = re.compile(r"(?<!\\sqrt)(?<!\\)\[(?=[^\]]*[A-Za-z(])([^\[\],;]*)\]")  # `3[(x-2)(x+2)]`
_DEGREES = re.compile(r"\^\\circ ?")
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_VECTOR = re.compile(r"\\(?:mathbf|vec|hat|overrightarrow|bar)(?:\{(\w+)\}| (\w))")
_COMMAND_BELOW = re.compile(r"_(?:\{\\([A-Za-z]+)\}|\\([A-Za-z]+))")
_DOUBLE_FACTORIAL = re.compile(r"(?<![\d.])(\d{1,3})!!(?!!)")
# Values of the variables in alphabetical order, mixed in sign and size. Functions that want naturals get naturals.
_POINTS = [(3, 7), (-5, 3), (11, 5), (2, 9), (-13, 11), (17, 4), (1, 13), (-19, 7)]
_NATURALS = [7, 12, 5, 9, 16, 11, 8, 14]
_DISCRETE = (sympy.floor, sympy.ceiling, sympy.factorial, sympy.factorial2, sympy.Mod, sympy.binomial)


class UncomparableError(Exception):
    """A check that cannot be done, with its reason in one line. It is no verdict."""


class UnreadableError(Exception):
    """A text that is no expression."""


def parse_gold(text: str) -> Any:
    """As `parse`, but a text that cannot be read raises UncomparableError."""
    try:
        return parse(text)
    except UnreadableError as error:
        raise UncomparableError(f"the gold answer cannot be read as mathematics: {text[:80]!r}") from error


@lru_cache(maxsize=4096)
def parse(text: str) -> Any:
    """The sympy expression or matrix of one piece of LaTeX. Raises UnreadableError if it is none."""
    value = exact_number(text)
    if value is not None:
        return sympy.Rational(value.numerator, value.denominator)
    text = _SQUARE.sub(_rounded, text)
    if not may_be_expression(text):
        raise UnreadableError(text)
    text = _DECIMAL.sub(lambda m: rf"\frac{{{int(m.group(1) + m.group(2))}}}{{{10 ** len(m.group(2))}}}", text)
    text = _DEGREES.sub(r"\\cdot\\frac{\\pi}{180}" if _TRIGONOMETRY.search(text) else "", text)
    text = _DOUBLE_FACTORIAL.sub(lambda m: str(sympy.factorial2(int(m.group(1)))), text)
    text = _COMMAND_BELOW.sub(lambda m: f"_{{{m.group(1) or m.group(2)}}}", text)
    text = _VECTOR.sub(lambda m: rf"{m.group(1) or m.group(2)}_{{vector}}", text)
    try:
        latex = normalize_latex(text, _LATEX)
        parsed = latex2sympy(  # no assumptions on symbols, so that both sides have the same ones
            latex, is_real=None, convert_degrees=False, normalization_config=None, conversion_config=_SYMBOLS
        )
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # syntax errors are bare Exceptions, and its bugs raise others
        raise UnreadableError(text) from error
    if not isinstance(parsed, (sympy.Expr, sympy.MatrixBase)):
        raise UnreadableError(text)
    if isinstance(parsed, sympy.Expr):
        _refuse_giants(parsed)
        if parsed.has(ExprWithLimits):  # k and n in sums over k and over n are the same
            parsed = parsed.as_dummy()
        parsed = parsed.xreplace({sympy.Symbol("i"): sympy.I})
    return parsed


def _rounded(match: re.Match[str]) -> str:
    """Round brackets for square ones that hold an expression and are not around the whole."""
    return match.group() if match.group() == match.string else f"({match[1]})"


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
    elif isinstance(expression, (sympy.factorial, sympy.factorial2, sympy.gamma, sympy.binomial)):
        size = 10.0 ** min(inner[0], 12) * max(inner[0], 1.0)
    elif inner:
        size = sum(inner)
    if size > MAX_LOG10:
        raise UncomparableError("a number in the answers is too large to compute")
    return size


def equal(gold: Any, answer: Any) -> bool:
    """Whether two parsed expressions are equal. Numbers are compared as numbers.

    Where both are complex at a point and differ, as `\\sqrt{1/n}` and `1/\\sqrt{n}` do for n < 0, the point counts
    only if there are fewer than three at which they are real.
    """
    if gold == answer:
        return True
    if not (isinstance(gold, sympy.Expr) and isinstance(answer, sympy.Expr)):
        return _verified(gold, answer)
    values = _values(gold, answer)
    if values is None:
        return _verified(gold, answer)
    real = [pair for pair in values if not (_is_complex(pair[0]) and _is_complex(pair[1]))]
    return all(close(*pair) for pair in (real if len(real) >= 3 else values))


def proportional(gold: Any, answer: Any, *, positive: bool = False) -> bool:
    """Whether two expressions differ by a constant factor (greater than 0)."""
    values = _values(gold, answer)
    if values is None:
        return not positive and _verified(sympy.Eq(gold, 0), sympy.Eq(answer, 0))
    with mpmath.workdps(DIGITS):
        (first_gold, first), *others = [(_inexact(left), _inexact(right)) for left, right in values]
        if not first or not first_gold or (positive and mpmath.re(first * first_gold) <= 0):
            return False
        return all(close(g * first, a * first_gold) for g, a in others)


def _is_complex(value: Any) -> bool:
    return not isinstance(value, sympy.Basic) and abs(value.imag) > abs(value.real) * _RELATIVE


def _values(gold: Any, answer: Any) -> list[tuple[Any, Any]] | None:
    """Values of both at the sample points. Without variables there is one point. None if one of them is no number."""
    if gold.has(AppliedUndef) or answer.has(AppliedUndef):
        return None
    symbols = tuple(sorted(gold.free_symbols | answer.free_symbols, key=str))
    if not symbols:
        values = constant(gold), constant(answer)
        return None if None in values else [values]
    discrete = _is_discrete(gold) or _is_discrete(answer)
    found: list[tuple[Any, Any]] = []
    for shift in range(len(_POINTS)):
        left, right = _sample(gold, symbols, shift, discrete), _sample(answer, symbols, shift, discrete)
        if left is not None and right is not None:
            found.append((left, right))
            if not close(left, right) and len(found) > 3:
                break
    return found if len(found) >= 3 else None


def _is_discrete(expression: Any) -> bool:
    """Whether an expression is about naturals: by its functions, or as a sum or product up to a variable."""
    series = expression.atoms(sympy.Sum, sympy.Product)
    return expression.has(*_DISCRETE) or any(
        end.free_symbols for one in series for limits in one.limits for end in limits[1:]
    )


@lru_cache(maxsize=4096)
def _sample(expression: Any, symbols: tuple[Any, ...], shift: int, discrete: bool) -> Any:
    """The value of an expression at one of the sample points, as `_value` gives it."""
    point = {}
    for index, symbol in enumerate(symbols):
        place = (shift + 3 * index) % len(_POINTS)
        top, bottom = (_NATURALS[place] + index, 1) if discrete else _POINTS[place]
        point[symbol] = sympy.Rational(top + index, bottom)
    if discrete and expression.has(sympy.Sum, sympy.Product):  # these have no value until they are written out
        return _value(expression.xreplace(point).doit(), None)
    return _value(expression, point)


@lru_cache(maxsize=4096)
def constant(expression: Any) -> Any:
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


def close(left: Any, right: Any) -> bool:
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
