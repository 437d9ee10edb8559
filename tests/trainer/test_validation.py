"""pass@1 on held-out prompts, with scripted answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2l_nemo.algorithm.options import AlgorithmConfig
from s2l_nemo.config.schema import ValidationConfig
from s2l_nemo.measures.statistics import Interval
from s2l_nemo.trainer.stop import StopRequest
from s2l_nemo.trainer.validation import (
    Validation,
    named_interval,
    read_validation,
    validation_metrics,
    write_validation,
)
from s2l_nemo.types import SampleRequest
from tests.trainer.scripted import VALID_SAMPLING, Answer, make_run, prompts

# Rewards of problem 101: 1 and a failed check; of 100: 0 and 1.
ANSWERS = {(101, 0): Answer((1,)), (101, 1): Answer((9,)), (100, 0): Answer((0,)), (100, 1): Answer((1, 5))}


def answer(request: SampleRequest) -> Answer:
    return ANSWERS[request.prompt_id, request.sample_id]


def test_rewards_in_the_order_of_the_prompts(tmp_path: Path, stop: StopRequest) -> None:
    run = make_run(
        tmp_path,
        stop,
        AlgorithmConfig(steps=4),
        train=prompts(5),
        valid=prompts(101, 100),
        validation=ValidationConfig(samples=2),
        by_learner=answer,
    )
    validation = run.trainer.validate()
    assert validation.correct_PK == [[1.0, 0.0], [0.0, 1.0]]
    assert validation.grader_errors == 1
    assert validation.asked["sampling"]["samples"] == 2
    assert run.explorer.asked == []
    ((_, params),) = run.learner.asked
    assert params == VALID_SAMPLING
    assert [item.question for item in run.grader.items] == ["question 101"] * 2 + ["question 100"] * 2


def test_a_validation_with_older_weights_is_refused(tmp_path: Path, stop: StopRequest) -> None:
    run = make_run(tmp_path, stop, AlgorithmConfig(steps=4), train=prompts(5))
    run.trainer.rollouts.refit(3)
    run.learner.weight_version = 2
    with pytest.raises(RuntimeError, match="sampled by learner version 2, not by 3"):
        run.trainer.validate()


def test_metrics() -> None:
    # 1 of 2 and 2 of 2: the mean of two drawn problems is 1/2, 3/4 or 1
    validation = Validation([[1.0, 0.0], [1.0, 1.0]], grader_errors=4)
    assert validation_metrics(validation) == {
        "validation/pass@1": 0.75,
        "validation/pass@1_low": 0.5,
        "validation/pass@1_high": 1.0,
        "validation/grader_errors": 4,
    }
    assert validation_metrics(None) == dict.fromkeys(validation_metrics(validation))


def test_named_interval() -> None:
    assert named_interval("x", Interval(0.25, 0.0, 1.0)) == {"x": 0.25, "x_low": 0.0, "x_high": 1.0}
    assert named_interval("x", None) == {"x": None, "x_low": None, "x_high": None}


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    for step, correct_PK in ((0, [[1.0, 0.0]]), (1_000_000, [[0.5, 0.25]])):
        write_validation(tmp_path / "validation", step, Validation(correct_PK, 0), prompts(7))
        assert (read_validation(tmp_path / "validation", step) or {})["correct"] == correct_PK
    assert read_validation(tmp_path / "validation", 1) is None
