r"""What a canonical answer is made of: lists, sets, tuples, intervals, matrices, relations. Text in, text out.

Separators count only outside of all brackets.
"""

from __future__ import annotations

import re
from functools import lru_cache

_BRACKET = re.compile(r"\\begin\{\w+\}|\\end\{\w+\}|\\[{}|]|\\[A-Za-z]+|\\.|[()\[\]{}]")
_OPEN = ("(", "[", "{", r"\{", r"\langle", r"\lfloor", r"\lceil")
_CLOSE = (")", "]", "}", r"\}", r"\rangle", r"\rfloor", r"\rceil")
_PAIRS = (("(", ")"), ("[", "]"), ("(", "]"), ("[", ")"), (r"\langle", r"\rangle"))
_MATRIX = re.compile(r"\\begin\{([pb]?matrix|array)\}(?:\{[lcr|]*\})?((?:(?!\\begin).)*)\\end\{\1\}")
_A_SET = re.compile(r"\\emptyset ?|\\mathbb\{[A-Z]\}|\\\{.*\\\}")  # `\{\emptyset\}` is not `\emptyset`
_PLUS_MINUS = re.compile(r"\\[pm]{2}(?![A-Za-z])")

LIST = re.compile(r"[,;]|\\lor(?![A-Za-z]) ?")
COMMA = re.compile("[,;]")
OR = re.compile(r"\\lor(?![A-Za-z]) ?")
UNION = re.compile(r"\\cup(?![A-Za-z])")
INTERSECTION = re.compile(r"\\cap(?![A-Za-z])")
WITHOUT = re.compile(r"\\setminus(?![A-Za-z])")
EQUALS = re.compile(r"(?<![<>\\:])=")
COLON = re.compile(":")
COMPARISON = re.compile(r"<|>|\\le(?![A-Za-z]) ?|\\ge(?![A-Za-z]) ?")
UNEQUAL = re.compile(r"\\ne(?![A-Za-z]) ?")
APPROXIMATE = re.compile(r"\\approx(?![A-Za-z]) ?")
MEMBER = re.compile(r"\\in(?![A-Za-z]) ?")
VARIABLE = re.compile(r"(?:\\(?!pi(?![A-Za-z]))[A-Za-z]+|[A-Za-z])(?:_\w|_\{\\?\w+\})?'*")


def split(text: str, separator: re.Pattern[str]) -> list[str]:
    """The stripped texts between the separators."""
    if not separator.search(text):
        return [text.strip()]
    depths = _depths(text)
    pieces, start = [], 0
    for match in separator.finditer(text):
        if depths[match.start()] == 0:
            pieces.append(text[start : match.start()])
            start = match.end()
    return [piece.strip() for piece in [*pieces, text[start:]]]


@lru_cache(maxsize=1024)  # each answer of a group meets the same gold
def _depths(text: str) -> tuple[int, ...]:
    """How many brackets are open at each character; `(3,4]` counts as a pair."""
    depths, depth, position = [], 0, 0
    for match in _BRACKET.finditer(text):
        depths += [depth] * (match.start() - position)
        token, position = match.group(), match.end()
        depth += _opens(token)
        depths += [depth] * len(token)
        depth -= _closes(token)
    return (*depths, *[depth] * (len(text) - position))


def _opens(token: str) -> bool:
    return token in _OPEN or token.startswith(r"\begin")


def _closes(token: str) -> bool:
    return token in _CLOSE or token.startswith(r"\end")


def closes_at_end(text: str) -> bool:
    """Whether the bracket that opens the text is closed by its last character and not before."""
    depth = 0
    for match in _BRACKET.finditer(text):
        token = match.group()
        depth += _opens(token)
        depth -= _closes(token)
        if depth <= 0:
            return depth == 0 and match.end() == len(text)
    return False


def unwrapped(text: str) -> str:
    """Without parentheses around the whole, if that is no tuple, and without square brackets around a matrix."""
    while text.startswith("(") and text.endswith(")") and closes_at_end(text) and ordered(text) is None:
        text = text[1:-1].strip()
    matrix = text[1:-1].strip() if text.startswith("[") and text.endswith("]") else ""
    return matrix if _MATRIX.fullmatch(matrix) else text


def ordered(text: str) -> tuple[str, list[str]] | None:
    """Brackets and components of a tuple or an interval; None for anything else."""
    for opening, closing in _PAIRS:
        if text.startswith(opening) and text.endswith(closing) and closes_at_end(text):
            parts = split(text[len(opening) : -len(closing)], COMMA)
            if len(parts) > 1:
                return "()" if opening == r"\langle" else opening + closing, parts
    return None


def braced(text: str) -> str | None:
    """What stands between the braces of a set; None for anything else."""
    return text[2:-2].strip() if text.startswith(r"\{") and text.endswith(r"\}") and closes_at_end(text) else None


def rows(text: str) -> list[list[str]] | None:
    """The rows of a matrix, also of `[[1,2],[3,4]]`; a tuple is a column. None for anything else."""
    if match := _MATRIX.fullmatch(text):
        lines = [line for line in re.split(r"\\\\(?:\[[^\]]*\])?", match.group(2)) if line.strip()]
        return [[cell.strip() for cell in line.split("&")] for line in lines]
    components = ordered(text)
    if components is None:
        return None
    if components[0] == "()":
        return [[cell] for cell in components[1]]
    lines_of = [ordered(line) for line in components[1]]
    whole = [line[1] for line in lines_of if line is not None and line[0] == "[]"]
    return whole if components[0] == "[]" and len(whole) == len(lines_of) else None


def members(text: str) -> list[str]:
    r"""Members of a list, or of sets in braces and their unions. Each \pm gives two."""
    found: list[str] = []
    for piece in split(text, UNION):
        inner = braced(piece)
        for part in split(piece if inner is None or _A_SET.fullmatch(inner) else inner, LIST):
            found += _both_signs(part)
    return found


def _both_signs(part: str) -> list[str]:
    if not _PLUS_MINUS.search(part):
        return [part]
    signs = (("+", "-"), ("-", "+"))
    return [
        re.sub(r"\\pm(?![A-Za-z]) ?", upper, re.sub(r"\\mp(?![A-Za-z]) ?", lower, part)).strip()
        for upper, lower in signs
    ]
