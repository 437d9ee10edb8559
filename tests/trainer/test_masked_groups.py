"""Groups in which the check of an answer failed, with `algorithm.mask_failed`: the step of `test_train_step` again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from s2l_nemo.algorithm.losses.aggregation import LossScale
from s2l_nemo.trainer.stop import StopRequest
from s2l_nemo.types import SampleRequest
from tests.trainer.scripted import Answer, ScriptedActor, make_run, prompts
from tests.trainer.test_train_step import ALGORITHM, ANSWERS, step_run


def test_groups_with_a_failed_check_can_be_masked(tmp_path: Path, stop: StopRequest) -> None:
    """The check of (9, 3) fails: all of prompt 9 goes, also from the advantages."""
    run = step_run(tmp_path, stop, replace(ALGORITHM, mask_failed=True))
    metrics, groups, advantages_PG = run.trainer.train_step(1)
    assert groups.kept_PG.tolist() == [[True] * 4, [False] * 4]
    assert advantages_PG.tolist() == [[0.75, -0.25, -0.25, -0.25], [0.0] * 4]
    assert run.actor.scales[:2] == [LossScale(7, 4, 8), LossScale(0, 0, 8)]
    assert [completion.kept for completion in groups.own[1].completions] == [False] * 4
    assert (metrics["reward/grader_errors"], metrics["group/zero_variance_fraction"]) == (1, 0.5)
    assert (metrics["reward/mean"], metrics["group/kept"]) == (3 / 8, 2.0)  # what was sampled, and what is trained on


def test_a_group_with_a_failed_check_is_sampled_anew(tmp_path: Path, stop: StopRequest) -> None:
    """Dynamic sampling puts the group of prompt 11, which has variance, in the place of the masked one."""

    def by(request: SampleRequest) -> Answer:
        return ANSWERS[{11: 7}.get(request.prompt_id, request.prompt_id), request.sample_id]

    algorithm = replace(ALGORITHM, mini_batch_prompts=2, optimizer_passes=1, mask_failed=True, refill_rounds=4)
    run = make_run(
        tmp_path, stop, algorithm, train=prompts(7, 9, 11), by_explorer=by, by_learner=by, actor=ScriptedActor()
    )
    _, groups, _ = run.trainer.train_step(1)
    assert groups.kept_PG.all()
    assert sorted(group.prompt.prompt_id for group in groups.own.values()) == [7, 11]
