"""F20: checks that fail are shown with the first reason, and a step or a validation of nothing else ends the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from s2l_nemo.algorithm.options import AlgorithmConfig
from s2l_nemo.algorithm.schedule import ScheduleConfig
from s2l_nemo.config.schema import CheckpointConfig, ValidationConfig
from s2l_nemo.errors import UserError
from s2l_nemo.records.metrics import read_metrics
from s2l_nemo.trainer.exchange import StepGroups
from s2l_nemo.trainer.grading import check_graded
from s2l_nemo.trainer.stop import StopRequest
from s2l_nemo.types import Completion, Group, SampleRequest, Source
from tests.arrays import ids, lps
from tests.trainer.scripted import ONE_RANK, Answer, Answers, Run, make_run, prompts
from tests.trainer.world import ThreadRanks, on_all_ranks

ALGORITHM = AlgorithmConfig(
    steps=3, prompts_per_step=1, group_size=2, kl_coef=0.0, schedule=ScheduleConfig(name="none")
)
FAILS, WORKS = Answer((9, 2)), Answer((1, 2))  # see `ScriptedGrader`


def run_of(folder: Path, stop: StopRequest, by_learner: Answers) -> Run:
    settings = {"checkpoint": CheckpointConfig(every=1, keep=0), "validation": ValidationConfig(every=3, samples=1)}
    return make_run(folder, stop, ALGORITHM, train=prompts(5, 6, 7), by_learner=by_learner, **settings)  # type: ignore[arg-type]


def test_f20_the_first_reason_is_said_once(tmp_path: Path, stop: StopRequest) -> None:
    def answers(request: SampleRequest) -> Answer:
        return FAILS if request.sample_id == 0 and request.prompt_id != 100 else WORKS

    run = run_of(tmp_path, stop, answers)
    assert run.trainer.fit() == 0
    assert [line["reward/grader_errors"] for line in read_metrics(run.run_dir.metrics)] == [1, 1, 1]
    said = [line for line in run.lines() if "failed" in line]
    assert said[0].endswith("on 2 held-out prompts, 1 checks failed, the first with 'killed'")
    assert said[1] == "warning: step 1: 1 checks failed, the first with 'killed'; their rewards are 0"
    assert len(said) == 3  # and the last validation


def test_f20_a_step_without_one_check_that_works_ends_the_run(tmp_path: Path, stop: StopRequest) -> None:
    seen: list[int] = []

    def answers(request: SampleRequest) -> Answer:
        seen.append(request.prompt_id)
        return WORKS if len(seen) <= 2 + 2 else FAILS  # validation and first step

    run = run_of(tmp_path, stop, answers)
    with pytest.raises(UserError) as caught:
        run.trainer.fit()
    assert str(caught.value).startswith("step 2: 2 of 2 checks failed, the first with 'killed': mend what checks")
    assert "run.allow_changed=[reward]" in str(caught.value)
    assert [path.name for path in run.run_dir.checkpoints.iterdir()] == ["step_000001"]
    assert len(read_metrics(run.run_dir.metrics)) == 1


def test_f20_a_validation_without_one_check_that_works_ends_the_run(tmp_path: Path, stop: StopRequest) -> None:
    run = run_of(tmp_path, stop, lambda request: FAILS)
    with pytest.raises(UserError, match=r"^a validation: 2 of 2 checks failed, the first with 'killed'"):
        run.trainer.fit()
    assert not list(run.run_dir.path.glob("validation/*"))


def completion(prompt: int, sample: int, error: str | None) -> Completion:
    return Completion(prompt, sample, Source.LEARNER, ids([1]), lps([-1.0]), "stop", 0, 0.0, None, error)


def test_f20_every_rank_knows_the_reason_of_the_first_failure_and_ends_alike() -> None:
    """Two replicas of one group each, in the other order."""
    asked = prompts(7, 8)
    errors: dict[int, Sequence[str | None]] = {7: [None, "second"], 8: ["third", None]}

    def job(ranks: ThreadRanks) -> StepGroups:
        prompt = asked[1 - ranks.rank]
        its = tuple(completion(prompt.prompt_id, n, error) for n, error in enumerate(errors[prompt.prompt_id]))
        return StepGroups.gather(ranks, asked, [Group(prompt, its)])

    for groups in on_all_ranks(job, [0, 1]):
        assert groups.why_failed == "second"
        check_graded("a step", groups)
    errors = {7: ["first", "second"], 8: ["third", "fourth"]}
    for groups in on_all_ranks(job, [0, 1]):
        with pytest.raises(UserError, match="4 of 4 checks failed, the first with 'first'"):
            check_graded("a step", groups)


def test_f20_the_reason_goes_with_groups_that_are_put_together() -> None:
    def of(*errors: str | None) -> StepGroups:
        (prompt,) = asked = prompts(7)
        its = tuple(completion(7, n, error) for n, error in enumerate(errors))
        return StepGroups.gather(ONE_RANK, asked, [Group(prompt, its)])

    well, failed = of(None, None), of(None, "killed")
    assert well.why_failed is None
    for groups in (well.beside(failed), failed.beside(well), well.with_others({0: 0}, failed)):
        assert groups.why_failed == "killed"
        assert isinstance(replace(groups).failed_PG, torch.Tensor)


def test_f28_a_difference_of_large_rewards_is_a_gradient(tmp_path: Path, stop: StopRequest) -> None:
    """float32 has no number between 1e6 and 1e6 + 0.06."""
    run = run_of(tmp_path, stop, lambda request: WORKS)
    one = replace(completion(7, 0, None), reward=1e6 + 0.01)
    other = replace(completion(7, 1, None), reward=1e6 + 0.02)
    (prompt,) = asked = prompts(7)
    groups = StepGroups.gather(ONE_RANK, asked, [Group(prompt, (one, other))])
    advantages_PG = run.trainer.advantages(groups)
    assert advantages_PG.dtype == torch.float32
    assert advantages_PG[0].tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5], rel=1e-3)
