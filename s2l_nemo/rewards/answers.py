# ruff: noqa: RUF001  (look-alike characters are what this file is about)
r"""Answers as text: finds them in a response, normalises them, and decides those that need no algebra.

Nothing here imports sympy. Every function is pure and takes time linear in its input.

How units and numbers are compared:
- A unit on one side only is dropped. Units on both sides must be the same: cm and centimeters are, cm and m are not.
- Degrees are a unit. A percent sign on both sides is a unit; on one side only, `N\%` may mean N or N/100.
- A number in base b (`52_8`) is right in that base only.
- Commas may part thousands. A rounded decimal is wrong.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache

# A longer answer is right only if it is the text of the gold answer. Proofs are that long; gold answers are not.
MAX_SYMBOLIC = 2000
_MAX_DIGITS = 500  # a longer plain number is compared as text; Python reads no more than 4,300 digits

_BOX_OR_BRACE = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+")
_SUBSCRIPT = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_SYMBOLS = {
    "−": "-", "–": "-", "‐": "-", "π": r"\pi ", "∞": r"\infty ", "°": r"^\circ ", "×": r"\times ", "·": r"\cdot ",
    "÷": "/", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "±": r"\pm ",
    "∓": r"\mp ", "√": r"\sqrt ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "⁄": "/", "∅": r"\emptyset ",
}  # fmt: skip
_REWRITES = [
    (re.compile(r"\\[$]|\$|\\!\s*|\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])\.?|\\displaystyle(?![A-Za-z])"), ""),
    (re.compile(r"(?<!\\)\\[,;: ~]|~|\\q?quad(?![A-Za-z])|\s+"), " "),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:mbox|textrm|textbf|textit|textnormal|mathrm|mathbf|mathit|operatorname)(?=\s*\{)"), r"\\text"),
    (re.compile(r"\\text\s*\{\s*(?:,\s*)?(?:and|or)\s*\}|,?(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])"), ","),
    (re.compile(r"\s*\{,\}\s*"), ","),
    (re.compile(r"(?:\\(?:leqslant|leq|le)(?![A-Za-z])|<=)\s*"), r"\\le "),
    (re.compile(r"(?:\\(?:geqslant|geq|ge)(?![A-Za-z])|>=)\s*"), r"\\ge "),
    (re.compile(r"\\(?:neq|ne)(?![A-Za-z])\s*"), r"\\ne "),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\(?:lbrace)(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\(?:rbrace)(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\^\s*\{?\s*\\circ(?![A-Za-z])\s*\}?\s*|\\degree(?![A-Za-z])\s*"), r"^\\circ "),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"([\^_])\s*\{\s*(\w)\s*\}"), r"\1\2"),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s*(\d)\s*\{"), r"\\frac{\1}{"),
    (re.compile(r"(\\frac\s*\{[^{}]*\})\s*(\d)"), r"\1{\2}"),
    (re.compile(r"(?<![\\A-Za-z])sqrt(?![A-Za-z])"), r"\\sqrt"),
    (re.compile(r"\\sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"\\sqrt\s*(\d|[A-Za-z](?![A-Za-z]))"), r"\\sqrt{\1}"),
    # A space has a meaning between two words, between two numbers, and between a word and a number after it.
    (re.compile(r" +(?![A-Za-z0-9])|(?<![A-Za-z0-9]) +|(?<=\d) +(?=[A-Za-z])"), ""),
]
_WHOLE_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_LETTER = re.compile(r"\(([A-Za-z])\)")
_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)"
_DECIMAL = re.compile(_NUMBER)
_QUOTIENT = re.compile(
    rf"(?P<sign>[+-]?)(?P<whole>\d*)(?:\\frac\{{(?P<a>{_NUMBER})\}}\{{(?P<b>{_NUMBER})\}}"
    rf"|(?P<c>(?:\d+(?:\.\d*)?|\.\d+))/(?P<d>{_NUMBER}))"
)
_SCIENTIFIC = re.compile(rf"({_NUMBER})(?:(?:\\times|\\cdot|\*)10\^\{{?|[eE])([+-]?\d{{1,3}})\}}?")
_REPEATING = re.compile(r"([+-]?\d*\.\d*)\\(?:overline|bar)\{(\d+)\}")
_BASED = re.compile(r"-?[0-9A-Z]+_(?:\d|\{\d+\})")
_UNIT_NAMES = {
    "centimeter": "cm", "centimetre": "cm", "meter": "m", "metre": "m", "kilometer": "km", "kilometre": "km",
    "millimeter": "mm", "millimetre": "mm", "inche": "inch", "in": "inch", "feet": "foot", "ft": "foot",
    "sec": "second", "s": "second", "min": "minute", "hr": "hour", "h": "hour", "g": "gram", "kilogram": "kg",
    "liter": "litre", "l": "litre", "°": "degree", "percent": "%", "percentage": "%", "square unit": "unit^2",
    "cubic unit": "unit^3", "squareunit": "unit^2", "cubicunit": "unit^3",
}  # fmt: skip
# Words that are units even without \text. A single letter without it is a variable.
_BARE_UNITS = (
    "degrees?|percent|cm|mm|km|kg|inch(?:es)?|feet|foot|ft|meters?|metres?|centimeters?|kilometers?|miles?|mph|yards?|"
    "seconds?|minutes?|hours?|days?|weeks?|months?|years?|dollars?|cents?|grams?|kilograms?|pounds?|ounces?|liters?|"
    "litres?|gallons?|square units?|cubic units?|units?"
)
_POWER = r"(?:\^(?:\d|\{\d\}))?"
_UNIT = re.compile(rf"(?:\\text\{{([^{{}}]*)\}}|(?<![A-Za-z\\])({_BARE_UNITS}))({_POWER})$|\^\\circ$|\\?%$")
_COMMAND = re.compile(r"\\[A-Za-z]+|\\.")
_WORD = re.compile(r"[A-Za-z]{3,}")
_PLAIN_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]+")
_NEGATION = re.compile(r"(?<![A-Za-z])(?:not|isn't|never|except|cannot)(?![A-Za-z])|\\ne(?![A-Za-z])", re.IGNORECASE)
_CHOICE_TEXT = re.compile(
    r"\b(?:answer|choice|option)\b(?:\s+is)?\s*:?\s*\(?\*{0,2}\(?([A-Z])(?![A-Za-z'])|"
    r"(?<![A-Za-z])\(([A-Z])\)|(?:^|\n)\s*\*{0,2}([A-Z])[.):](?![A-Za-z])|(?:^|\n)\s*\*{0,2}([A-Z])\*{0,2}\.?\s*$",
)
_BOXED_CHOICE = re.compile(r"\(?\s*([A-Za-z])\s*(?:[).:,]|$)")


def last_boxed(text: str) -> str | None:
    r"""The content of that `\boxed{...}` with balanced braces which begins last; None if there is none."""
    open_braces: list[tuple[int, bool]] = []  # start of the content, whether it is a box
    last: tuple[int, int] | None = None
    for match in _BOX_OR_BRACE.finditer(text):
        token = match.group()
        if token.endswith("{") and token != r"\{":
            open_braces.append((match.end(), token != "{"))
        elif token == "}" and open_braces:
            start, is_box = open_braces.pop()
            if is_box and (last is None or start > last[0]):
                last = start, match.start()
    return None if last is None else text[slice(*last)]


def normalize_answer(answer: str) -> str:
    r"""An answer in one way of writing, for comparing and not for showing.

    It has fractions as `\frac{a}{b}`, ASCII digits and signs, and no dollar signs, sizes or needless spaces. A full
    stop at the end, commas between thousands, a `\text{}` around the whole, and parentheses around a single letter
    are removed. A second call changes nothing in an ordinary answer.
    """
    if not answer.isascii():
        answer = _to_ascii(answer)
    for pattern, replacement in _REWRITES:
        answer = pattern.sub(replacement, answer)
    answer = answer.strip().removesuffix(".").strip()
    if whole := _WHOLE_TEXT.fullmatch(answer):
        answer = whole.group(1).strip().removesuffix(".")
    if letter := _LETTER.fullmatch(answer):
        answer = letter.group(1)
    while answer.startswith("{") and answer.endswith("}") and answer.count("{") == 1:
        answer = answer[1:-1].strip()
    return answer.replace(",", "") if _THOUSANDS.fullmatch(answer) else answer


def _to_ascii(text: str) -> str:
    """Turns full-width digits and their like into ASCII and mathematical signs into LaTeX. Other letters stay."""
    text = _SUPERSCRIPT.sub(lambda match: f"^{{{unicodedata.normalize('NFKC', match.group())}}}", text)
    text = _SUBSCRIPT.sub(lambda match: f"_{{{unicodedata.normalize('NFKC', match.group())}}}", text)
    text = re.sub(r"(\d?)([½¼¾⅓⅔⅛])", _vulgar_fraction, text)
    text = "".join(_SYMBOLS.get(character, character) for character in unicodedata.normalize("NFKC", text))
    return text.replace(r"\sqrt (", r"\sqrt(")


def _vulgar_fraction(match: re.Match[str]) -> str:
    top, bottom = unicodedata.normalize("NFKC", match.group(2)).split("⁄")
    return rf"{match.group(1)}\frac{{{top}}}{{{bottom}}}"


@lru_cache(maxsize=4096)
def exact_number(text: str) -> Fraction | None:
    r"""The value of a plain number: decimal, repeating decimal, a/b, mixed, or scientific. None for anything else."""
    text = text.replace(" ", "") if r"\frac" in text else text
    if len(text) > _MAX_DIGITS:
        return None
    if _DECIMAL.fullmatch(text):
        return Fraction(text)
    if match := _SCIENTIFIC.fullmatch(text):
        return Fraction(match.group(1)) * Fraction(10) ** int(match.group(2))
    if match := _REPEATING.fullmatch(text):
        return _repeating(*match.groups())
    match = _QUOTIENT.fullmatch(text)
    return None if match is None else _quotient(match)


def _repeating(start: str, period: str) -> Fraction:
    r"""The value of 0.1\overline{6}: `period` divided by as many nines, moved behind the digits of `start`."""
    places = len(start.partition(".")[2])
    tail = Fraction(int(period), (10 ** len(period) - 1) * 10**places)
    head = Fraction(start + "0")
    return head - tail if start.startswith("-") else head + tail


def _quotient(match: re.Match[str]) -> Fraction | None:
    if match["a"] is None:  # `1 1/2` has a space and is left to the parser
        top, bottom = Fraction(match["whole"] + match["c"]), Fraction(match["d"])
    else:
        top, bottom = Fraction(match["a"]), Fraction(match["b"])
    if not bottom:
        return None
    value = top / bottom
    if match["a"] is not None and match["whole"]:
        if value < 0:
            return None
        value += int(match["whole"])
    return -value if match["sign"] == "-" else value


def split_unit(text: str) -> tuple[str, str | None]:
    """The value and the unit of a normalised answer. The unit is singular, a power is ^2; None if there is none."""
    match = _UNIT.search(text)
    if match is None or match.start() == 0:
        return text, None
    value = text[: match.start()].rstrip()
    if value.endswith("%"):  # 5\% \text{ of x}
        return text, None
    token = match.group()
    if token.endswith("%"):
        unit = "%"
    elif token.endswith("circ"):
        unit = "degree"
    else:
        name = (match.group(1) or match.group(2)).strip().strip(".").lower()
        power = (match.group(3) or "").replace("{", "").replace("}", "")
        name = name if name in _UNIT_NAMES else name.removesuffix("s")
        unit = _UNIT_NAMES.get(name, name) + power
    return value, unit


def decide(gold: str, answer: str) -> bool | None:
    """Whether a normalised answer is right. None if text and exact numbers cannot tell, so that it takes algebra."""
    if gold == answer:
        return bool(gold)
    if not gold or not answer or max(len(gold), len(answer)) > MAX_SYMBOLIC or is_prose(gold):
        return False
    if _PLAIN_WORDS.fullmatch(gold):
        return gold.casefold() == answer.casefold()
    if bool(_NEGATION.search(gold)) != bool(_NEGATION.search(answer)):
        return False
    if _BASED.fullmatch(gold) or _BASED.fullmatch(answer):
        return False
    return _same_quantity(split_unit(gold), split_unit(answer))


def _same_quantity(gold: tuple[str, str | None], answer: tuple[str, str | None]) -> bool | None:
    """Whether two values with their units are equal; None if it takes algebra. A value without a unit fits any unit."""
    gold_value, gold_unit = gold
    value, unit = answer
    if gold_unit is not None and unit is not None and gold_unit != unit:
        return False
    if gold_value == value:
        return True
    left, right = exact_number(gold_value), exact_number(value)
    if left is None or right is None:
        return None
    if left == right:
        return True
    if "%" not in (gold_unit, unit) or gold_unit == unit:
        return False
    return left == right / 100 if unit == "%" else left / 100 == right


def is_prose(text: str) -> bool:
    """Whether a gold answer is prose, which only its own text can equal: four words of three letters or more."""
    return len(_WORD.findall(_COMMAND.sub(" ", text))) >= 4


def extract_choice(text: str) -> str | None:
    r"""The letter A-Z that a response chooses; None if it chooses none.

    The last box counts: `\boxed{C}`, `\boxed{(C) library}`, `\boxed{\text{C}}`. If there is no box, the last of these
    counts: "the answer is C", "(C)", a line that is or begins with "C.".
    """
    boxed = last_boxed(text)
    if boxed is not None:
        match = _BOXED_CHOICE.match(normalize_answer(boxed))
        return match.group(1).upper() if match else None
    found = None
    for match in _CHOICE_TEXT.finditer(text):
        found = next(group for group in match.groups() if group is not None)
    return found
