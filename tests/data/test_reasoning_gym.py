from __future__ import annotations

import sys

import pytest

from s2l_nemo.config.schema import ReasoningGymConfig
from s2l_nemo.data.reasoning_gym import ReasoningGymTask
from s2l_nemo.errors import UserError


@pytest.mark.usefixtures("fake_reasoning_gym")
def test_rows_continue_from_training_to_held_out() -> None:
    task = ReasoningGymTask(ReasoningGymConfig(dataset="say", train_prompts=3, seed=5))
    assert list(task.rows("train")) == [(0, "Say 5", "5"), (1, "Say 6", "6"), (2, "Say 7", "7")]
    assert list(task.rows("valid")) == [(3, "Say 8", "8"), (4, "Say 9", "9"), (5, "Say 10", "10")]


@pytest.mark.usefixtures("fake_reasoning_gym")
def test_held_out_questions_seen_in_training_are_left_out_and_a_missing_answer_is_empty() -> None:
    task = ReasoningGymTask(ReasoningGymConfig(dataset="say", train_prompts=3, seed=2, params={"modulo": 5}))
    assert list(task.rows("train")) == [(0, "Say 2", "2"), (1, "Say 3", "3"), (2, "Say 4", "4")]
    assert list(task.rows("valid")) == [(3, "Say 0", ""), (4, "Say 1", "1")]


@pytest.mark.usefixtures("fake_reasoning_gym")
def test_the_verifier_judges_the_question_of_the_row() -> None:
    task = ReasoningGymTask(ReasoningGymConfig(dataset="say", train_prompts=3, seed=5))
    assert [task.score(1, "6"), task.score(4, "9"), task.score(4, "8"), task.score(4, "x")] == [1.0, 1.0, 0.5, 0.0]


@pytest.mark.usefixtures("fake_reasoning_gym")
@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (ReasoningGymConfig(dataset="sing"), "'sing' not registered"),
        (ReasoningGymConfig(dataset="say", params={"pitch": 3}), "pitch"),
        (ReasoningGymConfig(dataset="say", params={"modulo": 0}), "modulo must be positive"),
    ],
)
def test_what_the_library_refuses_is_a_user_error(config: ReasoningGymConfig, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        ReasoningGymTask(config)


def test_without_the_library_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(UserError, match=r"pip install 's2l_nemo\[reasoning-gym\]'"):
        ReasoningGymTask(ReasoningGymConfig())
