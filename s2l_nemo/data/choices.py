"""Questions of multiple choice: the choices of a record, in the forms of public data sets, and the right letter.

ARC and CommonsenseQA have `choices: {"label": [...], "text": [...]}`, their original files a list of `{"label",
"text"}`, MMLU a list of texts, MMLU-Pro `options`, MedQA an object from letter to text.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

from s2l_nemo.data.sources import Record
from s2l_nemo.data.texts import check_text

CHOICE_KEYS = ("choices", "options", "question.choices")
LETTER = re.compile("[A-Z]")
_BARE_LETTER = re.compile(r"\(?([A-Za-z])[).:]?")
_OWN_LABEL = re.compile(r"\s*\(?([A-Z])[).:]\s*")


@dataclass(frozen=True)
class Choices:
    """The texts by letter, and the letter of the right one."""

    texts: dict[str, str]
    gold: str

    def listed(self) -> str:
        """One choice a line, with its letter."""
        return "\n".join(f"{letter}. {text}" for letter, text in self.texts.items())


def find_choices(record: Record, answer: object, answer_key: str) -> Choices | None:
    """The choices of a record; None if it lists none. `answer` is what it has at `answer_key`.

    The answer is a label, the text of a choice, or, of choices without labels, a number counted from 0. Labels that are
    numbers become letters.

    Raises ValueError if the choices are malformed, or if the answer is none of them.
    """
    key, value = next(((key, found) for key in CHOICE_KEYS if (found := _value(record, key))), ("", None))
    if value is None:
        return None
    labels, texts = _labels_and_texts(value, key)
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"the texts of {key!r} must be non-empty strings; correct the row")
    for text in texts:
        check_text(str(text), key)
    if len(texts) > len(string.ascii_uppercase):
        raise ValueError(f"{key!r} has {len(texts)} choices, more than there are letters; correct the row")
    numbered = labels is not None and all(isinstance(label, str) and label.isdecimal() for label in labels)
    letters = list(string.ascii_uppercase[: len(texts)]) if labels is None or numbered else list(map(str, labels))
    if len(set(letters if labels is None else map(str, labels))) < len(texts) or not all(
        map(LETTER.fullmatch, letters)
    ):
        raise ValueError(f"the labels of {key!r} must be different letters A-Z, or numbers, not {labels}")
    gold = _gold(answer, labels, letters, [str(text) for text in texts])
    if gold is None:
        shown = ", ".join(map(str, labels or letters))
        raise ValueError(f"{answer_key!r} {answer!r:.60} is none of the choices {shown}; correct the row")
    return Choices(dict(zip(letters, map(str, texts), strict=True)), gold)


def _value(record: Record, key: str) -> object:
    """What the record has at a name or dotted path; None if it has nothing."""
    value: object = record
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _labels_and_texts(value: object, key: str) -> tuple[Sequence[object] | None, Sequence[object]]:
    """Labels, None if the form has none, and as many texts. Raises ValueError for an unknown form."""
    if isinstance(value, dict) and {"label", "text"} <= value.keys():
        labels, texts = value["label"], value["text"]
        if isinstance(labels, list) and isinstance(texts, list) and 0 < len(labels) == len(texts):
            return labels, texts
    elif isinstance(value, dict):
        return list(value), list(value.values())
    elif isinstance(value, list) and all(isinstance(one, dict) for one in value):
        return [one.get("label") for one in value], [one.get("text") for one in value]
    elif isinstance(value, list) and all(isinstance(one, str) for one in value):
        matches = [_OWN_LABEL.match(one) for one in value]
        own = [match.group(1) for match in matches if match]
        if own == list(string.ascii_uppercase[: len(value)]):  # "A) 12" and so on
            return own, [_OWN_LABEL.sub("", one, count=1) for one in value]
        return None, value
    raise ValueError(f'{key!r} must be {{"label": [letters], "text": [as many texts]}} or a list of texts')


def _gold(answer: object, labels: Sequence[object] | None, letters: list[str], texts: list[str]) -> str | None:
    """The letter of the answer; None if it is none of the choices."""
    if isinstance(answer, int) and not isinstance(answer, bool) and labels is None:
        return letters[answer] if 0 <= answer < len(letters) else None
    text = str(answer).strip() if isinstance(answer, str | int) else ""
    bare = match.group(1).upper() if (match := _BARE_LETTER.fullmatch(text)) else text
    by_label = dict(zip(letters, letters, strict=True)) | dict(zip(map(str, labels or letters), letters, strict=True))
    by_text = {choice.strip(): letter for letter, choice in zip(letters, texts, strict=True)}
    return by_label.get(bare) or by_text.get(text)
