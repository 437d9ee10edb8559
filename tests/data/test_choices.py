"""The forms in which public data sets list choices."""

from __future__ import annotations

from typing import Any

import pytest

from s2l_nemo.data.choices import find_choices

TEXTS = ["iron", "ice", "salt"]
LISTED = "A. iron\nB. ice\nC. salt"


@pytest.mark.parametrize(
    ("record", "answer"),
    [
        ({"choices": {"label": ["A", "B", "C"], "text": TEXTS}}, "B"),
        ({"choices": {"text": TEXTS, "label": ["1", "2", "3"]}}, "2"),
        ({"choices": {"text": TEXTS, "label": ["1", "2", "3"]}}, 2),
        ({"choices": [{"label": label, "text": text} for label, text in zip("ABC", TEXTS, strict=True)]}, "B"),
        ({"question": {"stem": "?", "choices": [{"label": "A", "text": "iron"}, {"label": "B", "text": "ice"},
                                                {"label": "C", "text": "salt"}]}}, "B"),
        ({"choices": TEXTS}, 1),
        ({"choices": TEXTS}, "B"),
        ({"choices": TEXTS}, "ice"),
        ({"options": ["A) iron", "B) ice", "C) salt"]}, "b"),
        ({"options": ["(A) iron", "(B) ice", "(C) salt"]}, "(B)"),
        ({"options": {"A": "iron", "B": "ice", "C": "salt"}}, "B."),
        ({"choices": None, "options": TEXTS}, " ice "),
    ],
)  # fmt: skip
def test_choices_and_the_right_letter(record: dict[str, Any], answer: object) -> None:
    choices = find_choices(record, answer, "answerKey")
    assert choices is not None
    assert (choices.listed(), choices.gold) == (LISTED, "B")


@pytest.mark.parametrize("record", [{}, {"choices": None}, {"choices": []}, {"options": ""}, {"question": "choices"}])
def test_no_choices(record: dict[str, Any]) -> None:
    assert find_choices(record, "B", "answerKey") is None


@pytest.mark.parametrize(
    ("value", "answer", "reason"),
    [
        (TEXTS, "D", "'gold' 'D' is none of the choices A, B, C"),
        (TEXTS, 3, "'gold' 3 is none of the choices A, B, C"),
        (TEXTS, True, "'gold' True is none of the choices"),
        (TEXTS, "1", "'gold' '1' is none of the choices"),  # from 0 or from 1?
        ({"label": ["1", "2"], "text": ["a", "b"]}, "3", "'gold' '3' is none of the choices 1, 2"),
        ({"label": ["A"], "text": ["a", "b"]}, "A", "'choices' must be"),
        ({"label": ["A", "A"], "text": ["a", "b"]}, "A", "different letters A-Z, or numbers"),
        ({"label": ["1", "1"], "text": ["a", "b"]}, "1", "different letters A-Z, or numbers"),
        ({"label": ["A", "2"], "text": ["a", "b"]}, "A", "different letters A-Z, or numbers"),
        ([1, 2], "A", "'choices' must be"),
        (["a", " "], "A", "the texts of 'choices' must be non-empty strings"),
        ([str(number) for number in range(27)], "A", "'choices' has 27 choices"),
        ("A or B", "A", "'choices' must be"),
    ],
)
def test_what_is_no_multiple_choice(value: object, answer: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        find_choices({"choices": value}, answer, "gold")
