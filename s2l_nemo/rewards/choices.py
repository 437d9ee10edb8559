r"""The letter that a response to a multiple-choice question chooses."""

from __future__ import annotations

import re

from s2l_nemo.rewards.extraction import after_thinking, last_boxed
from s2l_nemo.rewards.notation import canonical

# A letter that stands alone: `A bank` and `I think` are no letters.
_ALONE = r"(?:(?!A [a-z]|I [a-z])|(?=[AI] (?:is|because|since|as|and|or|but)\b))([A-Z])(?!'?[A-Za-z])"
_STATED = re.compile(
    r"\b(?i:answer|choice|option)\b[*_\s]*(?:(?i:is|would be|must be|should be)\b[^\S\n]*[:=]?|[:=：])"  # noqa: RUF001
    rf"(?:\s|[*$(\"'`]|\\\(|\\text\{{|\b(?i:option|choice|letter)\b)*{_ALONE}|"
    r"<answer>\s*\(?([A-Z])(?!'?[A-Za-z])"
)
_MENTIONED = re.compile(
    rf"\b(?i:option|choice|letter|must be|go with|choose|pick|select)\s+[(*$]*{_ALONE}|"
    r"(?<![A-Za-z])\(([A-Z])\)|(?:^|\n)\s*\*{0,2}([A-Z])\*{0,2}[.):](?![A-Za-z])|"
    r"(?:^|\n)\s*[*`\"']{0,2}([A-Z])[*`\"']{0,2}\.?[^\S\n]*(?=\n|$)"
)
_ANOTHER = re.compile(
    r"[\s)}*$.,]*(?:(?:[,;/&]|\bor\b|\band\b)[\s(*$]*)+[A-Z](?![A-Za-z'])|[)*$.]*[^\S\n]+\(?[A-Z]\)?[.\s]*(?:\n|$)"
)
_REFUTED = re.compile(r"[\s)}*$.:]*(?:is|was|seems|looks)?\s*(?:not\b|n't\b|wrong|incorrect|false)")
_BOXED = re.compile(r"(?:(?i:option|choice|answer)\b[ :]*)?\(? ?([A-Za-z])(?: ?[).:]+(.*))?", re.DOTALL)
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_OTHER_LETTER = re.compile(rf"(?<![A-Za-z']){_ALONE}")
_GOES_ON = re.compile(r"\s*(?:[,;/&+|(]|\\lor)")


def extract_choice(text: str) -> str | None:
    r"""The letter A-Z that a response chooses; None if it chooses none, or more than one.

    The last box counts: `\boxed{C}`, `\boxed{(C) library}`, `\boxed{\text{C}}`. If there is no box, the last "the
    answer is C" or "Answer: C" counts, and if there is none, the last "(C)" or line that is or begins with "C.". What
    follows `</think>` is looked at first, and the thinking only if nothing is chosen there.
    """
    final = after_thinking(text)
    for part in (text,) if final is None else (final, text):
        letter = _chosen(part)
        if letter is not None:
            return letter or None
    return None


def boxed_letter(content: str) -> str | None:
    """The letter that the content of a box is or begins with; None if there is none, or another one beside it."""
    match = _BOXED.fullmatch(_TEXT.sub(r" \1 ", canonical(content)).strip())
    if match is None:
        return None
    letter, rest = match[1], (match[2] or "").strip()
    if rest and (_GOES_ON.match(rest) or _OTHER_LETTER.search(rest) or _REFUTED.match(rest)):
        return None
    return letter.upper()


def _chosen(text: str) -> str | None:
    """The letter; "" if something else is chosen; None if nothing is."""
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed_letter(boxed) or ""
    for pattern in (_STATED, _MENTIONED):
        found = None
        for match in pattern.finditer(text):
            if not _REFUTED.match(text, match.end()):
                letter = next(group for group in match.groups() if group is not None)
                found = "" if pattern is _STATED and _ANOTHER.match(text, match.end()) else letter
        if found is not None:
            return found
    return None
