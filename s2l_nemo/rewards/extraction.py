r"""Where the answer of a response stands: in a box, behind `####`, in a tag, ... Named in `rewards.extract`."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from s2l_nemo.config.schema import CutBox, Extract, RewardsConfig, SeveralBoxes

_BOX_OR_BRACE = re.compile(
    r"\\(?:boxed|fbox)\s*\{|\\(?:boxed|fbox)[ \t]*([+-]?\d+(?:\.\d+)?(?![\w\\{^])|[A-Z](?=[.$]*\s*(?:\n|$)))|\\.|[{}]",
    re.DOTALL,
)
_BETWEEN_BOXES = re.compile(r"(?:[\s,;.$]|\\[()\[\],;: ]|\\text\{\s*(?:and|or)\s*\}|and|or|\\q?quad)*")
_THINKING_ENDS = "</think>"
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_HASHES = re.compile(r"####[ \t]*(.+)")
_ANSWER_LINE = re.compile(r"(?im)^[\W_]*(?:the\s+)?(?:final\s+)?answer(?:\s+is)?[*_\s]*[:：][*_ \t]*(.+)$")  # noqa: RUF001
# The released evaluation, in its own order.
_RELEASED = [
    re.compile(r"\\boxed\{([^}]+)\}"),
    re.compile(r"(\\frac\{[^}]+\}\{[^}]+\})"),
    re.compile(r"Answer:[ \t]*(.+)"),
    re.compile(r"(-?\d+(?:\.\d+)?)"),
    re.compile(r"(?m)^[ \t]*(\S.*?)[ \t]*$"),
]


@dataclass(frozen=True)
class _Box:
    start: int  # of the command
    end: int  # behind the closing brace
    content: str


def _boxes(text: str) -> tuple[list[_Box], bool]:
    r"""The balanced boxes in the order of their beginnings, and whether a box is still open at the end."""
    open_braces: list[tuple[int, int]] = []  # start of a box or -1, start of its content
    found: list[_Box] = []
    for match in _BOX_OR_BRACE.finditer(text):
        token = match.group()
        if match.group(1) is not None:
            found.append(_Box(match.start(), match.end(), match.group(1)))
        elif token.endswith("{") and token != r"\{":
            open_braces.append((match.start() if token != "{" else -1, match.end()))
        elif token == "}" and open_braces:
            start, content = open_braces.pop()
            if start >= 0:
                found.append(_Box(start, match.end(), text[content : match.start()]))
    return sorted(found, key=lambda box: box.start), any(start >= 0 for start, _ in open_braces)


def last_boxed(text: str) -> str | None:
    r"""The content of that `\boxed{...}` or `\fbox{...}` with balanced braces which begins last; None if there is none.

    `\boxed 5` is a box too.
    """
    boxes, _ = _boxes(text)
    return boxes[-1].content if boxes else None


def after_thinking(text: str) -> str | None:
    """What follows the last `</think>`; None if there is none."""
    _, mark, final = text.rpartition(_THINKING_ENDS)
    return final if mark else None


def find_answer(text: str, rewards: RewardsConfig) -> str | None:
    """The answer of a response as it stands there; None if there is none. The keys of `rewards` say where to look."""
    if rewards.final_only:
        final = after_thinking(text)
        if final is None:
            return None
        text = final
    if rewards.extract is Extract.boxed:
        return _boxed(text, rewards)
    if rewards.extract is Extract.anywhere:
        finders: list[Callable[[str], str | None]] = [lambda one: _boxed(one, rewards), _tag, _hashes, _line]
        return next((answer for find in finders if (answer := find(text)) is not None), None)
    return _FINDERS[rewards.extract](text)


def _boxed(text: str, rewards: RewardsConfig) -> str | None:
    boxes, cut = _boxes(text)
    if not boxes or (cut and rewards.cut_box is CutBox.no_answer):
        return None
    if rewards.several_boxes is SeveralBoxes.last:
        return boxes[-1].content
    joined = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        if box.end > joined[0].start or not _BETWEEN_BOXES.fullmatch(text, box.end, joined[0].start):
            break
        joined.insert(0, box)
    return ", ".join(box.content for box in joined)


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    found = deque(pattern.finditer(text), maxlen=1)
    return found[0].group(1).strip() if found else None


def _without_box(answer: str | None) -> str | None:
    boxed = None if answer is None else last_boxed(answer)
    return answer if boxed is None else boxed


def _tag(text: str) -> str | None:
    return _without_box(_last(_TAG, text))


def _hashes(text: str) -> str | None:
    return _without_box(_last(_HASHES, text))


def _line(text: str) -> str | None:
    answer = _without_box(_last(_ANSWER_LINE, text))
    return None if answer is None else answer.strip("*_ ")


def _released(text: str) -> str | None:
    return next((answer for pattern in _RELEASED if (answer := _last(pattern, text)) is not None), None)


_FINDERS = {Extract.tag: _tag, Extract.hashes: _hashes, Extract.answer_line: _line, Extract.released: _released}
