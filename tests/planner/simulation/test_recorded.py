from __future__ import annotations

from pathlib import Path

import pytest

from s2l_nemo.errors import UserError
from s2l_nemo.planner.simulation.calibration import calibration_of
from s2l_nemo.planner.simulation.lengths import Answer
from s2l_nemo.planner.simulation.recorded import (
    RecordedStep,
    middle_of,
    recorded_groups,
    recorded_lengths,
    recorded_steps,
)
from s2l_nemo.records.directory import read_config
from tests.planner.simulation.runs import EXPLORERS, SECONDS, TINY, write_run, write_step
from tests.planner.simulation.world import E, L, config


@pytest.fixture
def a_run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", SECONDS, EXPLORERS)


def test_groups_of_a_step(a_run: Path) -> None:
    groups = recorded_groups("recorded", a_run, prompt=7)
    assert sorted(groups) == [1, 2, 3, 4, 5, 6]
    assert groups[2][1] == (Answer(1, 0, E, 7, 4), Answer(1, 1, L, 7, 8))
    assert recorded_lengths(groups[2])[1] == {E: (4,), L: (8,)}
    assert recorded_lengths(groups[3])[1] == {E: (), L: (4, 9)}


def test_the_first_step_is_left_out(a_run: Path) -> None:
    steps = recorded_steps("calibrate", a_run, 7)
    assert [step.step for step in steps] == [2, 3, 4, 5, 6]
    assert "rollout_explorer" not in steps[1].seconds
    assert steps[0].seconds["outside"] == 1.0
    assert steps[0].seconds["step"] == 9.0


def test_a_step_without_rollouts_is_left_out(tmp_path: Path) -> None:
    steps = recorded_steps("calibrate", write_run(tmp_path / "run", SECONDS, {1: 0, 4: 1}), 7)
    assert [step.step for step in steps] == [4]


def test_the_middle_of_repeats() -> None:
    def one(update: float, refit: float) -> list[RecordedStep]:
        return [RecordedStep(2, [], {"update": update, "refit": refit})]

    assert middle_of([one(1, 9), one(2, 8), one(9, 1)]) == one(2, 8)
    with pytest.raises(UserError, match="repeats of a run need the same steps"):
        middle_of([one(1, 1), []])


def test_rates_of_a_run_by_hand(a_run: Path) -> None:
    rates, steps = calibration_of([str(a_run), str(a_run)], config(*TINY), prompt=2)
    assert len(steps) == 5
    assert (rates.refit_s, rates.outside_s) == (1.0, 1.0)
    assert rates.grades_per_s == 4 / 0.5  # 8 answers on 2 ranks
    assert rates.explorer is not None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model.path=Qwen3-4B",), "has the learner Qwen3-1.7B, TP 1 x PP 1"),
        (("model.tensor_model_parallel_size=2",), "has the learner Qwen3-1.7B, TP 1 x PP 1"),
        (("engine.kind=server",), "calibrate with engine.kind=server"),
    ],
)
def test_rates_of_something_else(a_run: Path, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        calibration_of([str(a_run)], config(*TINY, *overrides), prompt=2)


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"recorded=.* has no rollouts/step_\*.parquet"):
        recorded_groups("recorded", tmp_path, 7)
    write_step(tmp_path, 1, [[3]], 0)
    with pytest.raises(UserError, match="has no steps after the first"):
        recorded_steps("calibrate", tmp_path, 7)
    with pytest.raises(UserError, match="is no folder of a run"):
        read_config("calibrate", tmp_path)
    (tmp_path / "config.yaml").write_text("nothing: 1\n")
    with pytest.raises(UserError, match="cannot read"):
        read_config("calibrate", tmp_path)
    (tmp_path / "rollouts" / "step_000002.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="is not a file of rollouts"):
        recorded_groups("recorded", tmp_path, 7)
