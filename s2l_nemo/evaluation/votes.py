"""Votes for values instead of texts: `1/2`, `0.5` and `\\frac{1}{2}` are one answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from s2l_nemo.rewards.answers import normalize_answer
from s2l_nemo.rewards.grader import Grader, MathGrader

Answers = Sequence[str | None]
Classes = Callable[[Answers], list[int | None]]  # the same number for equal answers, None for none


def classes_of(grader: Grader) -> Classes:
    """How the grader compares answers with each other: mathematics by value, all others as normalised text."""
    return grader.classes if isinstance(grader, MathGrader) else by_text


def merged(answers_K: Answers, right_K: Sequence[int], classes: Classes) -> list[str | None]:
    """Each answer of a problem replaced by its first answer of the same value.

    Answers that are right have the value of the gold, so they are not compared.
    """
    pairs = list(zip(answers_K, right_K, strict=True))
    right = [answer for answer, value in pairs if value and answer is not None]
    wrong = list(dict.fromkeys(answer for answer in answers_K if answer is not None and answer not in right))
    first: dict[int | None, str] = {}
    names = dict.fromkeys(right, right[0]) if right else {}
    for answer, number in zip(wrong, classes(wrong), strict=True):
        names[answer] = first.setdefault(number, answer)
    return [None if answer is None else names[answer] for answer in answers_K]


def by_text(answers: Answers) -> list[int | None]:
    """Classes of normalised text."""
    texts = [None if answer is None else normalize_answer(answer) for answer in answers]
    numbers = {text: number for number, text in enumerate(dict.fromkeys(text for text in texts if text is not None))}
    return [None if text is None else numbers[text] for text in texts]
