r"""Answers that are words for something else: `six`, `two thirds`, `all real numbers`, `1010_{\text{two}}`."""

from __future__ import annotations

import re

_SMALL = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19,
}  # fmt: skip
_TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
_DIGITS = [(word, value) for word, value in _SMALL.items() if 0 < value < 10]
_NUMBERS = _SMALL | _TENS | {f"{ten}-{one}": tens + ones for ten, tens in _TENS.items() for one, ones in _DIGITS}
_WHOLE_SET = re.compile(
    r"(?:the set of )?(?:all|any) (?:the )?(real|integer|rational|complex|natural)(?: (?:number|value))?s?",
    re.IGNORECASE,
)
_SETS = {"real": "R", "integer": "Z", "rational": "Q", "complex": "C", "natural": "N"}
_NO_SET = re.compile(r"no solution|(?:the )?(?:empty|null) set", re.IGNORECASE)
_PARTS = {
    "half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9,
    "tenth": 10,
}  # fmt: skip
_FRACTION = re.compile(rf"([a-z]+)-(?:({'|'.join(_PARTS)})s?|halves)")
_HUNDREDS = re.compile(r"([a-z]+)-hundred(?:-([a-z-]+))?")
_RATIO = re.compile(r"(\d+) ?(?:\\text\{ ?to ?\}|to) ?(\d+)")
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_MONTH = rf"(?P<month>{'|'.join(name[:3] + f'(?:{name[3:]})?' for name in _MONTHS)})\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th|\\text\{th\})?"
_DATE = re.compile(rf"{_MONTH} ?{_DAY}(?: ?,? ?(?P<year>\d{{4}}))?", re.IGNORECASE)
_BASE = re.compile(r"(?<=[0-9A-Z)])_\{(?:\\text\{)?([a-z]+)\}?\}$")


def plain(text: str) -> str:
    """The number, set, ratio or date that a whole answer names in words; any other answer as it is."""
    if not 2 < len(text) < 60:
        return text
    if text[0].isdigit():
        ratio = _RATIO.fullmatch(text)
        return text if ratio is None else f"{ratio[1]}:{ratio[2]}"
    if (number := _number(text.lower().replace(" ", "-"))) is not None:
        return number
    if _NO_SET.fullmatch(text):
        return r"\emptyset "
    if named := _WHOLE_SET.fullmatch(text):
        return rf"\mathbb{{{_SETS[named[1].lower()]}}}"
    date = _DATE.fullmatch(re.sub(r"^\\text\{([^{}]*)\}", r"\1", text))
    if date is None:
        return text
    month = next(name for name in _MONTHS if name[:3].lower() == date["month"][:3].lower())
    return f"{month} {int(date['day'])}" + (f", {date['year']}" if date["year"] else "")


def _number(words: str) -> str | None:
    """`twenty-one`, `two-hundred-five` and `three-quarters` in digits."""
    if words in _NUMBERS:
        return str(_NUMBERS[words])
    if (hundreds := _HUNDREDS.fullmatch(words)) and 0 < _NUMBERS.get(hundreds[1], 0) < 10:
        rest = _NUMBERS.get(hundreds[2] or "zero")
        return None if rest is None else str(100 * _NUMBERS[hundreds[1]] + rest)
    if (fraction := _FRACTION.fullmatch(words)) and _NUMBERS.get(fraction[1], 0) > 0:
        return rf"\frac{{{_NUMBERS[fraction[1]]}}}{{{_PARTS[fraction[2] or 'half']}}}"
    return None


def with_base(text: str) -> str:
    r"""`1010_{\text{two}}` with the base in digits."""
    return _BASE.sub(lambda match: f"_{{{_NUMBERS.get(match[1], match[1])}}}", text)
