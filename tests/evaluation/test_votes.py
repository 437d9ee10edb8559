"""Votes for values: hand-worked elections, with the real grader where algebra decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.config.schema import AnswerKind, Extract, RewardsConfig
from s2l_nemo.evaluation.votes import classes_of, merged
from s2l_nemo.measures.statistics import majority_P
from s2l_nemo.rewards.grader import MathGrader, answer_grader


def thirds(answers: Sequence[str | None]) -> list[int | None]:
    """Numbers are equal modulo 3."""
    return [None if answer is None else int(answer) % 3 for answer in answers]


def test_each_answer_is_the_first_of_its_value() -> None:
    assert merged(["1", "2", None, "4", "5", "7"], [0] * 6, thirds) == ["1", "2", None, "1", "2", "1"]
    assert merged([], [], thirds) == []


def test_right_answers_are_one_value_and_are_not_compared() -> None:
    asked: list[Sequence[str | None]] = []

    def classes(answers: Sequence[str | None]) -> list[int | None]:
        asked.append(answers)
        return thirds(answers)

    # an answer that is right in one sample is right in all: its check may have failed in another
    assert merged(["5", "1", "4", "1", "5"], [0, 1, 1, 0, 0], classes) == ["5", "1", "1", "1", "5"]
    assert asked == [["5"]]


@given(st.lists(st.integers(0, 9).map(str) | st.none(), max_size=8))
def test_the_classes_are_those_of_the_grader(answers: list[str | None]) -> None:
    right = [int(one is not None and int(one) % 3 == 0) for one in answers]
    found = merged(answers, right, thirds)
    assert thirds(found) == thirds(answers)
    assert len(set(found)) == len(set(thirds(answers)))


def test_other_answers_are_compared_as_text() -> None:
    classes = classes_of(answer_grader(RewardsConfig(answer=AnswerKind.exact)))
    assert classes(["1/2", "0.5", None, " 1/2", "0.5"]) == [0, 1, None, 0, 1]


@pytest.fixture(scope="module", params=[Extract.boxed, Extract.hashes])
def grader(request: pytest.FixtureRequest) -> Iterator[MathGrader]:
    """Wherever the answer of a response stands, answers are compared in one way."""
    made = MathGrader(RewardsConfig(workers=1, extract=request.param))
    yield made
    made.close()


def test_a_half_is_elected_in_three_spellings(grader: MathGrader) -> None:
    """As texts, 3 has two votes and each spelling of a half one."""
    answers, right = ["1/2", "0.5", r"\frac{1}{2}", "3", "3"], [1, 1, 1, 0, 0]
    assert majority_P([answers], [right]).tolist() == [0.0]
    assert majority_P([merged(answers, right, classes_of(grader))], [right]).tolist() == [1.0]
    wrong = [0, 0, 0, 1, 1]  # the gold is 3: the halves win, and are wrong
    assert merged(answers, wrong, classes_of(grader)) == ["1/2", "1/2", "1/2", "3", "3"]
    assert majority_P([merged(answers, wrong, classes_of(grader))], [wrong]).tolist() == [0.0]
