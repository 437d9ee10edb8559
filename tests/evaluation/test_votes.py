"""Votes for values: hand-worked elections, with the real grader where algebra decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.config.schema import RewardsConfig
from s2l_nemo.evaluation.votes import merged
from s2l_nemo.measures.statistics import majority_P
from s2l_nemo.rewards.grader import Grade, GradeItem, MathGrader


class Thirds:
    """Numbers are equal modulo 3; it remembers how often it was asked. `x` cannot be compared."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def grade(self, items: Sequence[GradeItem]) -> list[Grade]:
        pairs = [(item.gold, item.response.removeprefix("\\boxed{").removesuffix("}")) for item in items]
        self.asked += pairs
        return [self._grade(*pair) for pair in pairs]

    def close(self) -> None: ...

    def _grade(self, gold: str, answer: str) -> Grade:
        if "x" in (gold, answer):
            return Grade(None, answer, "killed")
        return Grade(float(int(gold) % 3 == int(answer) % 3), answer)


def test_each_answer_is_the_first_of_its_value() -> None:
    found = merged([["1", "2", None, "4", "5", "7", "x"], ["3", "0"]], [[0] * 7, [0] * 2], Thirds())
    assert found == [["1", "2", None, "1", "2", "1", "x"], ["3", "3"]]


def test_right_answers_are_one_value_and_are_not_compared() -> None:
    grader = Thirds()
    assert merged([["5", "1", "4", "1", "1"]], [[0, 1, 1, 0, 0]], grader) == [["5", "1", "1", "1", "1"]]
    assert grader.asked == []  # one wrong answer is left


def test_rounds_ask_no_more_than_every_pair_once() -> None:
    grader = Thirds()
    merged([["1", "4", "2", "5", "3", "1", "4"]], [[0] * 7], grader)
    assert grader.asked == [("1", "4"), ("1", "2"), ("1", "5"), ("1", "3"), ("2", "5"), ("2", "3")]


@given(st.lists(st.lists(st.integers(0, 9).map(str) | st.none(), min_size=1, max_size=8), min_size=1, max_size=4))
def test_the_classes_are_those_of_the_grader(answers_PK: list[list[str | None]]) -> None:
    right_PK = [[int(one is not None and int(one) % 3 == 0) for one in row] for row in answers_PK]
    for before, after in zip(answers_PK, merged(answers_PK, right_PK, Thirds()), strict=True):
        for one, other in zip(before, after, strict=True):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                assert int(one) % 3 == int(other) % 3
        names = {int(one) % 3: other for one, other in zip(before, after, strict=True) if one is not None}
        assert all(other == names[int(one) % 3] for one, other in zip(before, after, strict=True) if one is not None)


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    made = MathGrader(RewardsConfig(workers=1))
    yield made
    made.close()


def test_a_half_is_elected_in_three_spellings(grader: MathGrader) -> None:
    """As texts, 3 has two votes and each spelling of a half one."""
    answers, right = [["1/2", "0.5", r"\frac{1}{2}", "3", "3"]], [[1, 1, 1, 0, 0]]
    assert majority_P(answers, right).tolist() == [0.0]
    assert majority_P(merged(answers, right, grader), right).tolist() == [1.0]
    wrong = [[0, 0, 0, 1, 1]]  # the gold is 3: the wrong halves win
    assert merged(answers, wrong, grader) == [["1/2", "1/2", "1/2", "3", "3"]]
    assert majority_P(merged(answers, wrong, grader), wrong).tolist() == [0.0]
