"""Row 18 of docs/reliability.md: an update that is not finite is skipped and counted, and nothing of it stays."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.algorithm.options import AlgorithmConfig
from s2l_nemo.algorithm.schedule import ScheduleConfig
from s2l_nemo.config.schema import CheckpointConfig
from s2l_nemo.errors import UserError
from s2l_nemo.records.metrics import read_metrics
from s2l_nemo.trainer.progress import Progress
from s2l_nemo.trainer.stop import StopRequest
from s2l_nemo.trainer.sums import StepSums
from s2l_nemo.types import SampleRequest
from tests.trainer.scripted import Answer, Run, ScriptedActor, make_run, prompts

ALGORITHM = AlgorithmConfig(
    steps=5, prompts_per_step=1, group_size=2, kl_coef=0.0, schedule=ScheduleConfig(name="none")
)


def run_of(folder: Path, stop: StopRequest, actor: ScriptedActor, **changes: Any) -> Run:
    settings: dict[str, Any] = {"checkpoint": CheckpointConfig(every=1, keep=0), "train": prompts(5, 6, 7)}
    return make_run(folder, stop, changes.pop("algorithm", ALGORITHM), actor=actor, **(settings | changes))


def mixed(request: SampleRequest) -> Answer:
    """Right and wrong in one group, so that the loss depends on the ratios."""
    return Answer((request.sample_id % 2, 2))


def saved(run: Run) -> list[str]:
    return sorted(path.name for path in run.run_dir.checkpoints.iterdir())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_update_with_such_gradients_is_skipped_and_counted(tmp_path: Path, stop: StopRequest, bad: float) -> None:
    actor = ScriptedActor(grad_norms=lambda update: bad if update == 1 else 2.0)
    run = run_of(tmp_path, stop, actor)
    assert run.trainer.fit() == 0
    metrics = read_metrics(run.run_dir.metrics)
    assert [line["train/skipped"] for line in metrics] == [0, 1, 0, 0, 0]
    assert [line["grad_norm"] for line in metrics] == [2.0, None, 2.0, 2.0, 2.0]
    assert metrics[1]["loss"] is metrics[1]["kl"] is metrics[1]["clip_fraction"] is None
    assert metrics[1]["lr"] == 0.1
    assert saved(run) == [f"step_{step:06d}" for step in range(1, 6)]


def test_an_update_with_such_a_loss_is_skipped(tmp_path: Path, stop: StopRequest) -> None:
    actor = ScriptedActor(ratio=lambda update, prompt, sample: math.inf if update == 2 else 1.0)
    run = run_of(tmp_path, stop, actor, by_learner=mixed)
    assert run.trainer.fit() == 0
    assert [line["train/skipped"] for line in read_metrics(run.run_dir.metrics)] == [0, 0, 1, 0, 0]


def test_of_several_updates_the_good_ones_count(tmp_path: Path, stop: StopRequest) -> None:
    passes = replace(ALGORITHM, steps=1, optimizer_passes=4)
    actor = ScriptedActor(grad_norms=lambda update: (2.0, math.nan, math.inf, 4.0)[update])
    run = run_of(tmp_path, stop, actor, algorithm=passes)
    run.trainer.fit()
    (line,) = read_metrics(run.run_dir.metrics)
    assert (line["train/skipped"], line["grad_norm"]) == (2, 3.0)
    assert run.trainer.progress.skipped == 0


def test_f02_too_many_in_a_row_end_the_run_and_the_good_checkpoint_stays(tmp_path: Path, stop: StopRequest) -> None:
    actor = ScriptedActor(grad_norms=lambda update: math.nan if update >= 1 else 1.0)
    run = run_of(tmp_path, stop, actor, max_skipped=2, checkpoint=CheckpointConfig(every=1, keep=0))
    with pytest.raises(UserError, match=r"3 updates in a row up to step 4, more than run\.max_skipped=2: lower"):
        run.trainer.fit()
    assert [line["train/skipped"] for line in read_metrics(run.run_dir.metrics)] == [0, 1, 1, 1]
    assert saved(run) == ["step_000001", "step_000002", "step_000003"]


def test_good_updates_between_bad_ones_start_the_count_anew(tmp_path: Path, stop: StopRequest) -> None:
    actor = ScriptedActor(grad_norms=lambda update: math.nan if update % 2 else 1.0)
    run = run_of(tmp_path, stop, actor, max_skipped=1)
    assert run.trainer.fit() == 0


def test_a_resumed_run_goes_on_counting(tmp_path: Path, stop: StopRequest) -> None:
    state = Progress(step=2, position=2, skipped=2).state()
    progress = Progress.of(state, prompts_per_step=1)
    actor = ScriptedActor(grad_norms=lambda update: math.nan)
    run = run_of(tmp_path, stop, actor, progress=progress, max_skipped=2)
    with pytest.raises(UserError, match=r"3 updates in a row up to step 3"):
        run.trainer.fit()
    assert Progress.of({"step": 1}, prompts_per_step=1).skipped == 0


@pytest.mark.parametrize("bad_after", [0, 1, 3])
def test_such_weights_are_neither_given_to_an_engine_nor_saved(
    tmp_path: Path, stop: StopRequest, bad_after: int
) -> None:
    run = run_of(tmp_path, stop, ScriptedActor(finite_weights=lambda updates: updates < bad_after))
    where = f"not finite after step {bad_after}, which is not saved" if bad_after else "model.path has weights"
    with pytest.raises(UserError, match=where):
        run.trainer.fit()
    assert run.learner.versions == list(range(bad_after))
    steps = [f"step_{step:06d}" for step in range(1, bad_after)]
    assert (saved(run) if steps else []) == steps


def test_a_skipped_update_is_in_no_sum() -> None:
    sums = {"tokens": math.nan, "loss_sum": math.nan}
    stepped = {"grad_norm": math.nan, "lr": 0.5, "skipped": 1.0}
    before = StepSums(entropy=1.0, entropy_tokens=2.0, updates=1, loss=3.0)
    assert before.plus(sums, stepped) == replace(before, skipped=1, lr=0.5)
    assert before.plus(sums, stepped).and_then(before.plus(sums, stepped)).skipped == 2
