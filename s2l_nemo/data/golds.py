r"""The answer in a gold text: at the end of a worked solution, behind `####` as in GSM8K, or in a box as in MATH.

Data and the grader read it with the same function, so a gold is the same answer in a file and in a comparison.
"""

from __future__ import annotations

import json
import re

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_BARE = re.compile(r"[^\s$\\{}]*[^\s$\\{}.,;]")  # \boxed 5
_BETWEEN = re.compile(
    r"(?:[\s$,;]|\\[,;! ]|\\text\s*\{\s*(?:and|or)\s*\}|\b(?:and|or)\b|\b[A-Za-z]\s*=)*"
)  # boxes of one answer
_MARK = "####"
_ONE_IN_A_LIST = re.compile(r"\s*\[\s*(?:(\"[^\"]*\")|'([^']*)')\s*\]\s*")


def final_answer(text: str) -> str:
    r"""The last box of a text, else what stands behind its last `####`, else the text itself.

    Boxes that only commas, "and", "or" or "x =" part are one answer, "2, 3". What stands behind `####` must be one
    line: with more it is a heading. A box without an end is none. Of a JSON list of one string it is that string. The
    answer of an answer is itself.
    """
    if one := _ONE_IN_A_LIST.fullmatch(text):
        text = one[2] if one[1] is None else _unquoted(one[1])
    boxes = _boxes(text)
    if boxes:
        members, start = [boxes[-1]], boxes[-1][0]
        for box in reversed(boxes[:-1]):
            if not _BETWEEN.fullmatch(text, box[1], start):
                break
            members.insert(0, box)
            start = box[0]
        return ", ".join(final_answer(content) for _, _, content in members)
    _, mark, tail = text.rpartition(_MARK)
    return tail.strip() if mark and "\n" not in tail.strip() else text


def _unquoted(text: str) -> str:
    r"""A string of JSON. `"\frac12"` is LaTeX without JSON's escapes: the `\f` in it is no form feed."""
    try:
        value = str(json.loads(text))
    except ValueError:
        return text[1:-1]
    return value if value.isprintable() else text[1:-1]


def _boxes(text: str) -> list[tuple[int, int, str]]:
    """Start, end and content of each box with an end, but not of boxes inside of another."""
    found: list[tuple[int, int, str]] = []
    for match in _BOX.finditer(text):
        if found and match.start() < found[-1][1]:
            continue
        if text[match.end() : match.end() + 1] == "{":
            end = _closing(text, match.end())
            if end is not None:
                found.append((match.start(), end, text[match.end() + 1 : end - 1].strip()))
        elif bare := _BARE.match(text, match.end()):
            found.append((match.start(), bare.end(), bare.group()))
    return found


def _closing(text: str, start: int) -> int | None:
    """The place behind the brace that closes the one at `start`; None if nothing does."""
    depth = 0
    for match in _BRACE.finditer(text, start):
        depth += (match.group() == "{") - (match.group() == "}")
        if depth == 0:
            return match.end()
    return None
