"""Votes for values instead of texts: `1/2`, `0.5` and `\\frac{1}{2}` are one answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from s2l_nemo.rewards.grader import GradeItem, Grader

Answers = Sequence[str | None]


def merged(answers_PK: Sequence[Answers], right_PK: Sequence[Sequence[int]], grader: Grader) -> list[list[str | None]]:
    """Each answer replaced by the first answer of its problem that has the same value, as `grader` compares them.

    All right answers have the value of the gold. The others are compared with one of each value that was found before,
    round by round for all problems together. A comparison that fails leaves two values.
    """
    problems = list(zip(answers_PK, right_PK, strict=True))
    merged_PK = [_right_are_one(*problem) for problem in problems]
    golds = [_first_right(*problem) for problem in problems]
    left = [_different(row, gold) for row, gold in zip(merged_PK, golds, strict=True)]
    same: list[dict[str, str]] = [{} for _ in left]  # answer -> the earlier one of its value
    while any(left):
        pairs = [(p, its[0], other) for p, its in enumerate(left) for other in its[1:]]
        items = [GradeItem(n, "", gold, rf"\boxed{{{other}}}") for n, (_, gold, other) in enumerate(pairs)]
        equal = [grade.reward is not None and grade.reward >= 1.0 for grade in grader.grade(items)] if items else []
        for (p, gold, other), is_same in zip(pairs, equal, strict=True):
            if is_same:
                same[p][other] = gold
        left = [[one for one in its[1:] if one not in known] for its, known in zip(left, same, strict=True)]
    return [_renamed(row, known) for row, known in zip(merged_PK, same, strict=True)]


def _different(answers_K: Answers, right: str | None) -> list[str]:
    """The wrong answers, each once."""
    return list(dict.fromkeys(one for one in answers_K if one is not None and one != right))


def _renamed(answers_K: Answers, names: Mapping[str, str]) -> list[str | None]:
    return [one if one is None else names.get(one, one) for one in answers_K]


def _first_right(answers_K: Answers, right_K: Sequence[int]) -> str | None:
    return next((one for one, value in zip(answers_K, right_K, strict=True) if value and one is not None), None)


def _right_are_one(answers_K: Answers, right_K: Sequence[int]) -> list[str | None]:
    """An answer that is right in one sample is right in all: a check may fail under load."""
    first = _first_right(answers_K, right_K)
    right = {one for one, value in zip(answers_K, right_K, strict=True) if value}
    return [first if one is not None and one in right else one for one in answers_K]
