"""A run with a time limit saves while there is time, by a scripted clock."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.algorithm.options import AlgorithmConfig
from s2l_nemo.algorithm.schedule import ScheduleConfig
from s2l_nemo.config.schema import CheckpointConfig, ValidationConfig
from s2l_nemo.records.checkpoints import complete_checkpoints
from s2l_nemo.trainer.stop import StopRequest
from s2l_nemo.trainer.time_limit import REMEMBERED, TIME_IS_UP, TimeLimit
from tests.trainer.scripted import Run, ScriptedActor, make_run, prompts

ALGORITHM = AlgorithmConfig(
    steps=6, prompts_per_step=1, group_size=2, kl_coef=0.0, schedule=ScheduleConfig(name="none")
)


@dataclass
class SlowToSave(ScriptedActor):
    """A checkpoint takes two seconds."""

    def save(self, folder: Path, trainer_state: dict[str, Any]) -> None:
        self.time.passes(2.0)
        super().save(folder, trainer_state)


def run_until(
    folder: Path, stop: StopRequest, at: float | None, *, validates: int = 0, saves: int = 9
) -> tuple[Run, int]:
    """The script begins at second 1000. Its first step begins at 1001.25, a step takes 1.5, a validation 0.75."""
    run = make_run(
        folder, stop, ALGORITHM, train=prompts(5), actor=SlowToSave(),
        validation=ValidationConfig(every=validates, samples=1), checkpoint=CheckpointConfig(every=saves, keep=0),
    )  # fmt: skip
    run.trainer.limit = TimeLimit(at, run.time)
    return run, run.trainer.fit()


@pytest.mark.parametrize(
    ("at", "validates", "saves", "step", "second"),
    [
        # After step 3, at 1005.75, a step and a first checkpoint, which counts as long as a step, would end at 1008.75.
        (1008.0, 0, 9, 3, 1007.75),
        (1008.75, 0, 9, 3, 1007.75),
        (1008.76, 0, 9, 4, 1009.25),
        # A validation follows step 4: it would end at 1009.5.
        (1009.0, 4, 9, 3, 1007.75),
        # The checkpoint of step 2 has taken 2 seconds. Step 3 ends at 1007.75, step 4 with its own would at 1011.25.
        (1010.0, 0, 2, 3, 1009.75),
        (1000.0, 0, 9, 1, 1004.75),  # no time at all: one step, so that each start comes further
    ],
)
def test_the_last_checkpoint_stands_before_the_limit(
    tmp_path: Path, stop: StopRequest, at: float, validates: int, saves: int, step: int, second: float
) -> None:
    run, ended = run_until(tmp_path, stop, at, validates=validates, saves=saves)
    assert ended == TIME_IS_UP
    assert (run.trainer.step, run.time.seconds) == (step, second)
    assert complete_checkpoints(run.run_dir.checkpoints)[-1].step == step


@pytest.mark.parametrize("at", [None, 2000.0])
def test_a_limit_that_is_far_changes_nothing(tmp_path: Path, stop: StopRequest, at: float | None) -> None:
    run, ended = run_until(tmp_path, stop, at)
    assert (ended, run.trainer.step) == (0, 6)
    assert [one.step for one in complete_checkpoints(run.run_dir.checkpoints)] == [6]


def test_the_last_step_ends_the_run_and_not_the_limit(tmp_path: Path, stop: StopRequest) -> None:
    run, ended = run_until(tmp_path, stop, 1012.25 + 0.01)  # step 5 ends at 1008.75, the last one would at 1011.0
    assert (ended, run.trainer.step) == (TIME_IS_UP, 5)
    run, ended = run_until(tmp_path / "later", stop, 1012.51)  # 1008.75 + 1.5 + 0.75 + 1.5
    assert (ended, run.trainer.step) == (0, 6)


def test_a_signal_comes_first(tmp_path: Path, stop: StopRequest) -> None:
    stop.signal = 15
    run, ended = run_until(tmp_path, stop, 1000.0)
    assert (ended, run.trainer.step) == (15, 1)


@given(seconds=st.lists(st.floats(0.1, 100), min_size=1, max_size=30))
def test_the_longest_of_the_last_steps_stands_for_the_next(seconds: list[float]) -> None:
    limit = TimeLimit(0.0)
    for one in seconds:
        limit.timed_step(one, None)
    assert limit.needed(validates=False) == 2 * max(seconds[-REMEMBERED:])
    limit.timed_save(7.0)
    limit.timed_save(3.0)
    assert limit.needed(validates=False) == max(seconds[-REMEMBERED:]) + 7.0
    limit.timed_step(200.0, 150.0)
    assert limit.needed(validates=True) == max([*seconds, 50.0][-REMEMBERED:]) + 150.0 + 7.0
