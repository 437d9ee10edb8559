"""The best checkpoint by a metric of validations: which one it is, that it is kept, and where the link leads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from s2l_nemo.errors import UserError
from s2l_nemo.records.best import Best, best_checkpoint, is_better, link_best
from s2l_nemo.records.checkpoints import prune_checkpoints, weights_of
from s2l_nemo.records.directory import RunDir
from s2l_nemo.records.metrics import MetricsWriter
from tests.records.conftest import scripted_metrics
from tests.records.test_checkpoints import names, publish

METRIC = "validation/pass@1"


def run_with(folder: Path, values: dict[int, float | None], saved: list[int]) -> RunDir:
    run_dir = RunDir(folder)
    folder.mkdir(exist_ok=True)
    with MetricsWriter(run_dir) as writer:
        for step, value in values.items():
            writer.write(step, {**scripted_metrics(step), METRIC: value})
    for step in saved:
        publish(run_dir.checkpoints, step)
    return run_dir


def test_the_largest_value_and_of_equal_ones_the_earliest(tmp_path: Path) -> None:
    run_dir = run_with(tmp_path, {1: 0.9, 2: 0.5, 3: None, 4: 0.5, 5: 0.1}, saved=[2, 3, 4, 5])
    assert best_checkpoint(run_dir, METRIC) == Best(2, 0.5)  # step 1 was better, and has no checkpoint
    assert best_checkpoint(run_dir, "validation/aime24/pass@1") is None


@pytest.mark.parametrize(("step", "better"), [(1, True), (2, False), (3, False), (5, False)])
def test_better_than_every_checkpoint(tmp_path: Path, step: int, better: bool) -> None:
    run_dir = run_with(tmp_path, {1: 0.9, 2: 0.5, 3: None, 4: 0.5, 5: 0.1}, saved=[4])
    assert is_better(run_dir, METRIC, step) is better


def test_the_first_validation_is_the_best_so_far(tmp_path: Path) -> None:
    run_dir = run_with(tmp_path, {1: 0.0, 2: None}, saved=[])
    assert is_better(run_dir, METRIC, 1)
    assert not is_better(run_dir, METRIC, 2)


def test_the_best_stays_and_the_link_leads_to_it(tmp_path: Path) -> None:
    run_dir = run_with(tmp_path, {1: 0.9}, saved=[1, 2, 3, 4])
    link_best(run_dir, 2)
    link_best(run_dir, 1)
    (run_dir.checkpoints / ".tmp-best").symlink_to("step_000003")  # what a kill leaves
    prune_checkpoints(run_dir.checkpoints, keep=1, also=[1])
    assert names(run_dir.checkpoints) == ["best", "step_000001", "step_000004"]
    assert os.readlink(run_dir.checkpoints / "best") == "step_000001"
    assert (run_dir.checkpoints / "best" / "COMPLETE.json").is_file()


def test_a_run_stands_for_its_newest_checkpoint(tmp_path: Path) -> None:
    run_dir = run_with(tmp_path / "run", {1: 0.9}, saved=[1, 2])
    assert weights_of(run_dir.path) == run_dir.checkpoint(2)
    assert weights_of(run_dir.checkpoint(1)) == run_dir.checkpoint(1)
    assert weights_of(tmp_path / "nowhere") == tmp_path / "nowhere"
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="is the folder of a run without a complete checkpoint"):
        weights_of(tmp_path / "empty")
