"""Which validations a summary compares."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.records.identity import Difference, record_changes, settle_identity
from s2l_nemo.trainer.recorder import Recorder
from s2l_nemo.trainer.validation import Validation, asked_of
from s2l_nemo.types import SamplingParams
from tests.trainer.scripted import ScriptedTime, make_recorder, prompts

BEFORE = Validation([[0.0, 0.0], [1.0, 1.0]], grader_errors=0)
AFTER = Validation([[0.5, 0.5], [1.5, 1.5]], grader_errors=0)
GREEDY = SamplingParams(8, (2,), temperature=0.0)
OTHERS = [replace(prompt, answer="another") for prompt in prompts(7, 9)]


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def recorder(tmp_path: Path, output: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setattr("s2l_nemo.trainer.recorder.plot_run", lambda run_dir: [])
    return make_recorder(tmp_path, ScriptedTime(), output)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (asked_of(prompts(7, 9), 1, GREEDY, 3), None),
        ({}, None),  # by an earlier version
        (asked_of(OTHERS, 1, GREEDY, 3), "other prompts have the same numbers"),
        (asked_of(prompts(7, 9), 2, GREEDY, 3), "sampled with samples=1 before training, 2 after it"),
        (asked_of(prompts(7, 9), 1, GREEDY, 4), "sampled with seed=3 before training, 4 after it"),
        (
            asked_of(prompts(7, 9), 1, replace(GREEDY, temperature=0.5), 3),
            "sampled with temperature=0.0 before training, 0.5 after it",
        ),
        (
            asked_of(prompts(7, 9), 1, replace(GREEDY, stop_token_ids=(2, 3)), 3),
            "sampled with stop_token_ids=[2] before training, [2, 3] after it",
        ),
    ],
)
def test_f08_only_the_same_prompts_sampled_alike_are_compared(
    recorder: Recorder, output: io.StringIO, asked: dict[str, Any], reason: str | None
) -> None:
    recorder.validated(0, replace(BEFORE, asked=asked_of(prompts(7, 9), 1, GREEDY, 3)), prompts(7, 9))
    recorder.validated(2, replace(AFTER, asked=asked), prompts(7, 9))
    assert recorder.summarize(2)
    (line,) = [line for line in output.getvalue().splitlines() if "->" in line]
    assert line.endswith(f"not compared: {reason}" if reason else "(95 % paired bootstrap +0.500 to +0.500)")
    difference = json.loads(recorder.run_dir.summary.read_text())["pass@1/difference"]
    assert difference == (None if reason else 0.5)


def test_validations_under_another_reward_are_not_compared(recorder: Recorder, output: io.StringIO) -> None:
    settle_identity(recorder.run_dir.path, {}, [], None)
    record_changes(recorder.run_dir.path, [Difference("reward", "rewards.fn=a:b", "source 1", "source 2")], 1)
    recorder.validated(0, BEFORE, prompts(7, 9))
    recorder.validated(2, AFTER, prompts(7, 9))
    assert recorder.summarize(2)
    assert "not compared: rewards.fn has changed since" in output.getvalue()
