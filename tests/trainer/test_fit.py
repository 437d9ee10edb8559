"""The loop over steps: when it validates, saves, writes and stops, and which prompts come when."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.algorithm.groups import sample_seed
from s2l_nemo.algorithm.options import AlgorithmConfig
from s2l_nemo.algorithm.schedule import Outcome, ScheduleConfig
from s2l_nemo.config.schema import CheckpointConfig, LoggingConfig, ValidationConfig
from s2l_nemo.records.metrics import read_metrics
from s2l_nemo.trainer.progress import Progress
from s2l_nemo.trainer.stop import StopRequest
from s2l_nemo.trainer.validation import Validation
from s2l_nemo.types import SampleRequest
from tests.trainer.scripted import (
    RUN_SEED,
    VALID_SAMPLING,
    Answer,
    Answers,
    Run,
    ScriptedLearnerEngine,
    ScriptedTime,
    make_run,
    prompts,
    right,
)

ALGORITHM = AlgorithmConfig(
    steps=5, prompts_per_step=1, group_size=2, kl_coef=0.0, schedule=ScheduleConfig(name="linear", t_mix=2)
)
SETTINGS: dict[str, Any] = {
    "validation": ValidationConfig(every=2, samples=2),
    "checkpoint": CheckpointConfig(every=3, keep=0),
    "logging": LoggingConfig(rollouts_every=2),
}


def run_of(folder: Path, stop: StopRequest, algorithm: AlgorithmConfig = ALGORITHM, **changes: Any) -> Run:
    return make_run(folder, stop, algorithm, train=prompts(5, 6, 7), **(SETTINGS | changes))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_whole_run(tmp_path: Path, stop: StopRequest) -> None:
    run = run_of(tmp_path, stop)
    assert run.trainer.fit() == 0
    assert run.trainer.step == 5
    metrics = read_metrics(run.run_dir.metrics)
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5]
    assert [(line["group/explorer"], line["group/learner"]) for line in metrics] == [(2, 0), *[(0, 2)] * 4]
    assert [line["validation/pass@1"] for line in metrics] == [None, 1.0, None, 1.0, 1.0]
    assert names(run.run_dir.validation) == [f"step_{step:06d}.json" for step in (0, 2, 4, 5)]
    assert names(run.run_dir.checkpoints) == ["step_000003", "step_000005"]
    assert names(run.run_dir.rollouts) == ["step_000002.parquet", "step_000004.parquet"]
    # The engine has the weights of every step, those of before the first one included.
    assert run.learner.versions == [0, 1, 2, 3, 4, 5]
    assert [line.split()[0] for line in run.lines() if line][1:] == [
        "step", "1/9", "2/9", "validation", "3/9", "4/9", "validation", "5/9", "validation",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "validation_every", "checkpoint_every", "validated", "saved"),
    [(3, 0, 5, [0, 3], [3]), (4, 4, 2, [0, 4], [2, 4]), (2, 1, 1, [0, 1, 2], [1, 2])],
)
def test_when_to_validate_and_to_save(
    tmp_path: Path,
    stop: StopRequest,
    steps: int,
    validation_every: int,
    checkpoint_every: int,
    validated: list[int],
    saved: list[int],
) -> None:
    run = run_of(
        tmp_path,
        stop,
        replace(ALGORITHM, steps=steps),
        validation=ValidationConfig(every=validation_every, samples=1),
        checkpoint=CheckpointConfig(every=checkpoint_every, keep=0),
    )
    run.trainer.fit()
    assert names(run.run_dir.validation) == [f"step_{step:06d}.json" for step in validated]
    assert names(run.run_dir.checkpoints) == [f"step_{step:06d}" for step in saved]


def test_engines_leave_their_memory_to_a_checkpoint_after_a_validation(tmp_path: Path, stop: StopRequest) -> None:
    """The learner's engine then needs its weights again; not so after the validation of step 0, nor in step 3."""
    run = run_of(
        tmp_path,
        stop,
        replace(ALGORITHM, steps=4),
        validation=ValidationConfig(every=2, samples=1),
        checkpoint=CheckpointConfig(every=1, keep=0),
    )
    run.trainer.rollouts.sleeps = True
    run.trainer.fit()
    assert run.learner.versions == [0, 1, 2, 2, 3, 4]


def test_the_time_of_a_step_with_its_validation(tmp_path: Path, stop: StopRequest) -> None:
    run = run_of(tmp_path, stop)
    run.trainer.fit()
    explored, validated, plain, *_ = read_metrics(run.run_dir.metrics)
    # explorer 1.5 or learner 0.5; grading 0.25, update 0.25, refit 0.5; validation 0.5 + 0.25
    assert (explored["time/step"], explored["time/step_with_validation"]) == (2.5, 2.5)
    assert (validated["time/step"], validated["time/step_with_validation"]) == (1.5, 2.25)
    assert (plain["time/step"], plain["time/step_with_validation"]) == (1.5, 1.5)


def test_validation_asks_the_same_every_time_and_with_other_seeds_than_training(
    tmp_path: Path, stop: StopRequest
) -> None:
    run = run_of(tmp_path, stop, valid=prompts(100, 5))  # the number of a training prompt
    run.trainer.fit()
    asked = [requests for requests, params in run.learner.asked if params == VALID_SAMPLING]
    expected = [
        SampleRequest(prompt.prompt_id, k, prompt.token_ids, sample_seed(RUN_SEED, 0, prompt.prompt_id, k), draw=k)
        for prompt in prompts(100, 5)
        for k in range(2)
    ]
    assert asked == [expected] * 4
    trained = [one.seed for requests, params in run.learner.asked if params != VALID_SAMPLING for one in requests]
    trained += [one.seed for requests, _ in run.explorer.asked for one in requests]
    assert not {one.seed for one in expected} & set(trained)
    assert len(set(trained)) == len(trained) == 10


def prompts_of_steps(run: Run) -> list[list[int]]:
    asked = [requests for requests, _ in run.explorer.asked]
    return [list(dict.fromkeys(one.prompt_id for one in requests)) for requests in asked]


def test_prompts_across_epochs_and_after_a_resume(tmp_path: Path, stop: StopRequest) -> None:
    constant = ScheduleConfig(name="constant", alpha=0.5)
    algorithm = AlgorithmConfig(steps=5, prompts_per_step=2, group_size=2, kl_coef=0.0, schedule=constant)
    five = prompts(20, 21, 22, 23, 24)
    whole = make_run(tmp_path / "whole", stop, algorithm, train=five)
    whole.trainer.fit()
    # The permutations of seed 3 are 4 1 0 3 2, then 3 2 0 4 1: two batches each, and one prompt left out.
    assert prompts_of_steps(whole)[:4] == [[24, 21], [20, 23], [23, 22], [20, 24]]
    drawn = {(1, 20): 1, (1, 21): 1, (1, 24): 1, (1, 23): 2, (1, 22): 1}
    saved = Progress(3, 6, drawn, [Outcome(1.0, None, 0.5)] * 3)
    progress = Progress.of(json.loads(json.dumps(saved.state())), prompts_per_step=2)
    assert progress == saved
    resumed = make_run(tmp_path / "resumed", stop, algorithm, train=five, progress=progress)
    resumed.trainer.fit()
    assert prompts_of_steps(resumed) == prompts_of_steps(whole)[3:]
    assert [requests for requests, _ in resumed.explorer.asked] == [
        requests for requests, _ in whole.explorer.asked[3:]
    ]
    assert resumed.learner.versions == [3, 4, 5]


def test_a_resumed_run_does_not_validate_before_its_first_step(tmp_path: Path, stop: StopRequest) -> None:
    run = run_of(tmp_path, stop, step=4)
    assert run.trainer.fit() == 0
    assert names(run.run_dir.validation) == ["step_000005.json"]
    assert [line["step"] for line in read_metrics(run.run_dir.metrics)] == [5]


def test_a_finished_run_only_gives_its_weights_to_the_engine(tmp_path: Path, stop: StopRequest) -> None:
    run = run_of(tmp_path, stop, step=5)
    run.recorder.validated(5, Validation([[1.0]], 0), prompts(100))
    assert run.trainer.fit() == 0
    assert run.learner.versions == [5]
    assert run.learner.asked == run.explorer.asked == []
    assert names(run.run_dir.checkpoints) == []


def test_a_run_that_is_shortened_to_what_it_has_done_is_validated(tmp_path: Path, stop: StopRequest) -> None:
    run = run_of(tmp_path, stop, step=5)
    assert run.trainer.fit() == 0
    assert names(run.run_dir.validation) == ["step_000005.json"]
    assert names(run.run_dir.checkpoints) == []


def signal_in(step: int) -> Answers:
    """Answers of the learner; the process is signalled while it samples the one of this step."""
    of_step = {sample_seed(RUN_SEED, step, prompt, 0) for prompt in (5, 6, 7)}

    def answer(request: SampleRequest) -> Answer:
        if request.seed in of_step:
            os.kill(os.getpid(), signal.SIGTERM)
        return Answer((1, 2))

    return answer


def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(tmp_path: Path, stop: StopRequest) -> None:
    run = run_of(tmp_path, stop, by_learner=signal_in(step=4), validation=ValidationConfig(every=0, samples=1))
    assert run.trainer.fit() == signal.SIGTERM
    assert run.trainer.step == 4
    assert names(run.run_dir.checkpoints) == ["step_000003", "step_000004"]
    assert [line["step"] for line in read_metrics(run.run_dir.metrics)] == [1, 2, 3, 4]
    assert names(run.run_dir.validation) == ["step_000000.json"]


def test_a_file_asks_for_a_checkpoint(tmp_path: Path, stop: StopRequest) -> None:
    def asks(request: SampleRequest) -> Answer:
        if request.seed in {sample_seed(RUN_SEED, 4, prompt, 0) for prompt in (5, 6, 7)}:
            (tmp_path / "save_now").touch()
        return Answer((1, 2))

    run = run_of(tmp_path, stop, by_learner=asks, checkpoint=CheckpointConfig(every=9, keep=0))
    assert run.trainer.fit() == 0
    assert names(run.run_dir.checkpoints) == ["step_000004", "step_000005"]
    assert not (tmp_path / "save_now").exists()


def test_a_signal_in_the_last_step_does_not_cut_the_run_off(tmp_path: Path, stop: StopRequest) -> None:
    run = run_of(tmp_path, stop, by_learner=signal_in(step=5))
    assert run.trainer.fit() == 0
    assert names(run.run_dir.validation)[-1] == "step_000005.json"


def test_state_of_a_checkpoint(tmp_path: Path, stop: StopRequest) -> None:
    run = run_of(tmp_path, stop, seconds_before=100.0)
    run.trainer.fit()
    state = json.loads((run.run_dir.checkpoint(3) / "state.json").read_text())
    # refit 0.5, validation 0.75, steps 2.5 + 2.25 + 1.5
    assert (state["step"], state["seconds"], state["explorer_weight_hash"]) == (3, 107.5, "e" * 64)
    progress = Progress.of(state, prompts_per_step=1)
    assert (progress.position, len(progress.outcomes)) == (3, 3)
    drawn = {source: sum(n for (its, _), n in progress.drawn.items() if its == source) for source in (0, 1)}
    assert drawn == {1: 2, 0: 4}  # G_w is 2, then 0


class TestReplay:
    def replay(self, folder: Path, stop: StopRequest, **changes: Any) -> tuple[Run, ScriptedLearnerEngine]:
        """A run whose training asks another engine than validation."""
        stored = ScriptedLearnerEngine(right, ScriptedTime(), 0.0)
        return run_of(folder, stop, replayed=stored, **changes), stored

    def test_the_engine_gets_weights_for_validations_alone(self, tmp_path: Path, stop: StopRequest) -> None:
        run, stored = self.replay(tmp_path, stop)
        run.trainer.fit()
        assert stored.versions == [0, 1, 2, 3, 4, 5]
        assert run.learner.versions == [0, 2, 4, 5]
        assert {params for _, params in run.learner.asked} == {VALID_SAMPLING}
        assert VALID_SAMPLING not in {params for _, params in stored.asked}
        metrics = read_metrics(run.run_dir.metrics)
        assert [line["validation/pass@1"] for line in metrics] == [None, 1.0, None, 1.0, 1.0]

    def test_it_sleeps_after_each(self, tmp_path: Path, stop: StopRequest) -> None:
        run, _ = self.replay(tmp_path, stop)
        run.trainer.validator.sleeps = True
        run.trainer.fit()
        assert not run.trainer.validator.awake

    def test_draws_of_the_learner_count_over_the_run(self, tmp_path: Path, stop: StopRequest) -> None:
        """Three prompts, one a step: the fourth step begins again."""
        run, stored = self.replay(tmp_path, stop)
        run.trainer.fit()
        drawn: dict[int, list[int]] = {}
        for requests, _ in stored.asked:
            for one in requests:
                drawn.setdefault(one.prompt_id, []).append(one.draw)
        assert sum(map(len, drawn.values())) == 4 * 2
        assert all(draws == list(range(len(draws))) for draws in drawn.values())

    def test_all_of_it_is_closed(self, tmp_path: Path, stop: StopRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        run, stored = self.replay(tmp_path, stop)
        closed: list[Any] = []
        for engine in (stored, run.learner):
            monkeypatch.setattr(engine, "close", lambda engine=engine: closed.append(engine))
        run.trainer.close()
        assert closed == [stored, run.learner]
        assert run.grader.is_closed


def test_without_held_out_prompts_nothing_is_validated(tmp_path: Path, stop: StopRequest) -> None:
    run = run_of(tmp_path, stop, valid=[])
    assert run.trainer.fit() == 0
    run.recorder.summarize(5)
    assert names(run.run_dir.validation) == []
    assert VALID_SAMPLING not in {params for _, params in run.learner.asked}
    summary = json.loads(run.run_dir.summary.read_text())
    assert (summary["steps"], "pass@1/after" in summary) == (5, False)
    assert "no pass@1: there is no validation before and after training (validation.prompts)" in run.messages()
