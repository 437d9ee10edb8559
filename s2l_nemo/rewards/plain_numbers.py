"""Plain numbers, exactly: decimals, fractions, mixed numbers, repeating decimals, powers of ten."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

_MAX_DIGITS = 500  # a longer plain number is compared as text; Python reads no more than 4,300 digits
_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)"
_DECIMAL = re.compile(_NUMBER)
_QUOTIENT = re.compile(
    rf"(?P<sign>[+-]?)(?P<whole>\d*)(?:\\frac\{{(?P<a>{_NUMBER})\}}\{{(?P<b>{_NUMBER})\}}"
    rf"|(?P<c>(?:\d+(?:\.\d*)?|\.\d+))/(?P<d>{_NUMBER}))"
)
_MIXED = re.compile(r"(?P<sign>[+-]?)(?P<whole>\d+) (?P<a>\d+)/(?P<b>\d+)")
_SCIENTIFIC = re.compile(rf"({_NUMBER})(?:(?:\\times|\\cdot|\*) ?10\^\{{?|[eE])([+-]?\d{{1,3}})\}}?")
_REPEATING = re.compile(r"([+-]?\d*\.\d*)\\(?:overline|bar)\{(\d+)\}")
_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])")


def readings(text: str) -> tuple[str, ...]:
    """What a canonical answer can mean: with its commas between thousands removed, and as a list."""
    if "," not in text:
        return (text,)
    joined = _THOUSANDS.sub(lambda match: match.group().replace(",", ""), text)
    return (text,) if joined == text else (joined, text)


@lru_cache(maxsize=4096)
def exact_number(text: str) -> Fraction | None:
    r"""The value of a plain number: decimal, repeating decimal, a/b, mixed, or scientific. None for anything else."""
    if len(text) > _MAX_DIGITS:
        return None
    if match := _MIXED.fullmatch(text):
        return _quotient(match["sign"], match["whole"], match["a"], match["b"])
    text = text.replace(" ", "") if r"\frac" in text else text
    if _DECIMAL.fullmatch(text):
        return Fraction(text)
    if match := _SCIENTIFIC.fullmatch(text):
        return Fraction(match.group(1)) * Fraction(10) ** int(match.group(2))
    if match := _REPEATING.fullmatch(text):
        return _repeating(*match.groups())
    if match := _QUOTIENT.fullmatch(text):
        if match["a"] is not None:
            return _quotient(match["sign"], match["whole"], match["a"], match["b"])
        return _quotient(match["sign"], "", match["whole"] + match["c"], match["d"])
    return None


def _repeating(start: str, period: str) -> Fraction:
    r"""The value of 0.1\overline{6}: `period` divided by as many nines, moved behind the digits of `start`."""
    places = len(start.partition(".")[2])
    tail = Fraction(int(period), (10 ** len(period) - 1) * 10**places)
    head = Fraction(start + "0")
    return head - tail if start.startswith("-") else head + tail


def _quotient(sign: str, whole: str, top: str, bottom: str) -> Fraction | None:
    if not Fraction(bottom):
        return None
    value = Fraction(top) / Fraction(bottom)
    if whole and not (int(whole) > 0 and 0 < value < 1):  # `0 \\frac{11}{4}` is two numbers
        return None
    value += int(whole or 0)
    return -value if sign == "-" else value
