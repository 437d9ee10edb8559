"""A run that keeps its best checkpoint besides the newest: when it saves, what it keeps, and after an interruption."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.config.schema import CheckpointConfig, ValidationConfig
from s2l_nemo.trainer.stop import StopRequest
from s2l_nemo.types import SampleRequest
from tests.trainer.scripted import Answer, Run
from tests.trainer.test_fit import ALGORITHM, names, run_of

METRIC = "validation/pass@1"
# Of the two held-out prompts, how many are right after each step.
RIGHT = {0: 2, 1: 0, 2: 1, 3: 1, 4: 0, 5: 0, 6: 2, 7: 1}


def run_with(folder: Path, stop: StopRequest, **changes: Any) -> Run:
    runs: list[Run] = []

    def answer(request: SampleRequest) -> Answer:
        right = request.prompt_id < 100 or request.prompt_id - 100 < RIGHT[runs[0].learner.weight_version]
        return Answer((int(right), 2))

    settings: dict[str, Any] = {
        "validation": ValidationConfig(every=1, samples=1),
        "checkpoint": CheckpointConfig(every=100, keep=1, best=METRIC),
    }
    runs.append(run_of(folder, stop, replace(ALGORITHM, steps=7), by_learner=answer, **(settings | changes)))
    return runs[0]


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes seconds and is tested with the plots."""
    monkeypatch.setattr("s2l_nemo.trainer.recorder.plot_run", lambda run_dir: [])


def test_the_best_is_saved_when_it_is_found_and_kept_to_the_end(tmp_path: Path, stop: StopRequest) -> None:
    run = run_with(tmp_path, stop)
    run.trainer.fit()
    run.recorder.summarize(7)
    assert names(run.run_dir.checkpoints) == ["best", "step_000006", "step_000007"]
    assert os.readlink(run.run_dir.checkpoints / "best") == "step_000006"
    said = [line for line in run.lines() if line.startswith("best checkpoint")]
    assert said == [
        f"best checkpoint so far: step {step}, {METRIC} {value}" for step, value in ((1, "0.000"), (2, "0.500"),
                                                                                    (6, "1.000"))
    ]  # fmt: skip
    summary = json.loads(run.run_dir.summary.read_text())
    assert (summary["best/metric"], summary["best/step"], summary["best/value"]) == (METRIC, 6, 1.0)


def test_without_the_key_only_the_newest_stay(tmp_path: Path, stop: StopRequest) -> None:
    run = run_with(tmp_path, stop, checkpoint=CheckpointConfig(every=2, keep=1))
    run.trainer.fit()
    run.recorder.summarize(7)
    assert names(run.run_dir.checkpoints) == ["step_000007"]
    assert not any(name.startswith("best") for name in json.loads(run.run_dir.summary.read_text()))


def test_a_resumed_run_knows_the_best_so_far(tmp_path: Path, stop: StopRequest) -> None:
    first = run_with(tmp_path, stop, checkpoint=CheckpointConfig(every=4, keep=1, best=METRIC))
    first.trainer.algorithm = replace(ALGORITHM, steps=5)
    first.trainer.fit()
    first.recorder.close()
    assert names(first.run_dir.checkpoints) == ["best", "step_000002", "step_000005"]
    again = run_with(tmp_path, stop, step=5, resume_step=5)
    again.trainer.fit()
    assert [line for line in again.lines() if line.startswith("best checkpoint")] == [
        f"best checkpoint so far: step 6, {METRIC} 1.000"
    ]
    assert names(again.run_dir.checkpoints) == ["best", "step_000006", "step_000007"]
