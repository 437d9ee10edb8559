"""The control of Table 4 with scripted answers: who is asked for more, and who is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.algorithm.groups import sample_seed
from s2l_nemo.algorithm.options import AdvantageStd, AlgorithmConfig, ScheduleConfig
from s2l_nemo.rewards.grader import Grade, GradeItem
from s2l_nemo.trainer.grading import Grading
from s2l_nemo.trainer.stop import StopRequest
from s2l_nemo.types import Completion, SampleRequest
from tests.trainer.scripted import RUN_SEED, SAMPLING, Answer, Run, ScriptedGrader, decode, make_run, prompts

# Tokens are alike to the last, which is the answer: so a different answer is a different text too.
EXPLORER = {0: Answer((1, 4, 4, 7)), 1: Answer((1, 4, 4, 7)), 2: Answer((0, 5, 6, 8))}
LEARNER = Answer((1, 4, 4, 7))


def filtered_run(folder: Path, stop: StopRequest, explorer: int, learner: int, **changes: Any) -> Run:
    size = explorer + learner
    algorithm = AlgorithmConfig(
        steps=3,
        prompts_per_step=1,
        group_size=size,
        kl_coef=0.0,
        adv_std=AdvantageStd.none,
        schedule=ScheduleConfig(name="constant", alpha=explorer / size),
    )
    settings: dict[str, Any] = {
        "by_explorer": lambda request: EXPLORER[request.sample_id],
        "by_learner": lambda request: LEARNER,
    } | changes
    return make_run(folder, stop, algorithm, train=prompts(7), filtered=True, **settings)


def kept(completions: tuple[Completion, ...]) -> list[bool]:
    return [completion.kept for completion in completions]


def test_the_explorer_is_brought_down_to_the_learners_diversity(tmp_path: Path, stop: StopRequest) -> None:
    run = filtered_run(tmp_path, stop, explorer=3, learner=3)
    metrics, groups, advantages_PG = run.trainer.train_step(1)
    # The learner says the same three times. Without its third answer, so does the explorer.
    assert kept(groups[0].completions) == [True, True, False, True, True, True]
    assert metrics["group/kept"] == 5.0
    assert metrics["time/explorer_filter"] == 0.0
    assert metrics["group/zero_variance_fraction"] == 1.0
    assert advantages_PG.tolist() == [[0.0] * 6]
    assert metrics["reward/explorer"] == pytest.approx(2 / 3)  # of all that were sampled
    assert len(run.learner.asked) == 1  # there were as many learner answers as explorer ones
    # The mask of the answer that was left out is 0: five answers of four tokens are trained on.
    assert run.actor.scales[0].tokens == 20


def test_a_learner_with_fewer_answers_samples_the_missing_ones(tmp_path: Path, stop: StopRequest) -> None:
    run = filtered_run(tmp_path, stop, explorer=3, learner=1)
    metrics, groups, _ = run.trainer.train_step(1)
    assert kept(groups[0].completions) == [True, True, False, True]
    (for_group, _), (more, params) = run.learner.asked
    assert [one.sample_id for one in for_group] == [3]
    # Two more. Their numbers follow those of the group, so their seeds are new.
    assert more == [SampleRequest(7, k, (10, 11), sample_seed(RUN_SEED, 1, 7, k)) for k in (4, 5)]
    assert params == SAMPLING
    assert metrics["time/explorer_filter"] == 0.75  # sampling and grading
    assert (metrics["time/rollout_learner"], metrics["time/reward"]) == (0.5, 0.25)
    assert metrics["response_length/mean"] == 4.0
    assert len(groups[0].completions) == 4


def test_the_missing_ones_are_compared_with(tmp_path: Path, stop: StopRequest) -> None:
    def as_diverse(request: SampleRequest) -> Answer:
        return {3: LEARNER, 4: LEARNER, 5: EXPLORER[2]}[request.sample_id]

    run = filtered_run(tmp_path, stop, explorer=3, learner=1, by_learner=as_diverse)
    _, groups, _ = run.trainer.train_step(1)
    assert kept(groups[0].completions) == [True] * 4


def test_only_as_many_learner_answers_as_explorer_ones_are_compared(tmp_path: Path, stop: StopRequest) -> None:
    def late(request: SampleRequest) -> Answer:
        return EXPLORER[2] if request.sample_id == 6 else LEARNER  # the fourth of the learner's

    run = filtered_run(tmp_path, stop, explorer=3, learner=4, by_learner=late)
    _, groups, _ = run.trainer.train_step(1)
    assert kept(groups[0].completions) == [True, True, False, True, True, True, True]


@pytest.mark.parametrize("explorer", [0, 1, 2])
def test_few_explorer_answers_are_all_kept(tmp_path: Path, stop: StopRequest, explorer: int) -> None:
    run = filtered_run(
        tmp_path, stop, explorer=explorer, learner=2, by_explorer=lambda request: EXPLORER[2 * request.sample_id]
    )
    _, groups, _ = run.trainer.train_step(1)
    assert kept(groups[0].completions) == [True] * (explorer + 2)
    assert len(run.learner.asked) == 1


class PointGrader(ScriptedGrader):
    """The first answer ends with a point, as in `7.`"""

    def grade(self, items: Sequence[GradeItem]) -> list[Grade]:
        first, *others = super().grade(items)
        return [replace(first, answer=f"{first.answer}."), *others]


def test_two_ways_to_write_an_answer_are_one_answer(tmp_path: Path, stop: StopRequest) -> None:
    run = filtered_run(tmp_path, stop, explorer=3, learner=3, by_explorer=lambda request: LEARNER)
    run.trainer.rollouts.grading = Grading(decode, PointGrader(run.time))
    _, groups, _ = run.trainer.train_step(1)
    assert [completion.answer for completion in groups[0].completions] == ["7.", *["7"] * 5]
    assert kept(groups[0].completions) == [True] * 6
