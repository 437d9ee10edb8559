"""The control of Table 4 with scripted answers: who is asked for more, and who is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.algorithm.groups import explorer_seed, sample_seed
from s2l_nemo.algorithm.options import AdvantageStd, AlgorithmConfig
from s2l_nemo.algorithm.schedule import ScheduleConfig
from s2l_nemo.measures.diversity import match_learner_diversity
from s2l_nemo.rewards.grader import Grade, GradeItem
from s2l_nemo.trainer.grading import Grading
from s2l_nemo.trainer.stop import StopRequest
from s2l_nemo.types import Completion, SampleRequest
from tests.trainer.scripted import (
    RUN_SEED,
    SAMPLING,
    Answer,
    Run,
    ScriptedGrader,
    ScriptedTime,
    decode,
    make_run,
    prompts,
)

# Tokens are alike to the last, which is the answer: so a different answer is a different text too.
EXPLORER = {0: Answer((1, 4, 4, 7)), 1: Answer((1, 4, 4, 7)), 2: Answer((0, 5, 6, 8))}
LEARNER = Answer((1, 4, 4, 7))


def filtered_run(
    folder: Path, stop: StopRequest, explorer: int, learner: int, candidates: int | None = None, **changes: Any
) -> Run:
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
    run = make_run(folder, stop, algorithm, train=prompts(7), filtered=True, **settings)
    assert run.trainer.explorer_filter is not None
    run.trainer.explorer_filter = replace(run.trainer.explorer_filter, explorers=[SAMPLING], candidates=candidates)
    return run


def kept(completions: tuple[Completion, ...]) -> list[bool]:
    return [completion.kept for completion in completions]


def test_the_explorer_is_brought_down_to_the_learners_diversity(tmp_path: Path, stop: StopRequest) -> None:
    run = filtered_run(tmp_path, stop, explorer=3, learner=3)
    metrics, groups, advantages_PG = run.trainer.train_step(1)
    # The learner says the same three times. Without its third answer, so does the explorer.
    assert kept(groups.own[0].completions) == [True, True, False, True, True, True]
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
    assert kept(groups.own[0].completions) == [True, True, False, True]
    (for_group, _), (more, params) = run.learner.asked
    assert [one.sample_id for one in for_group] == [3]
    # Two more. Their numbers follow those of the group, so their seeds are new.
    assert more == [SampleRequest(7, k, (10, 11), sample_seed(RUN_SEED, 1, 7, k), draw=k - 4) for k in (4, 5)]
    assert params == SAMPLING
    assert metrics["time/explorer_filter"] == 0.75  # sampling and grading
    assert (metrics["time/rollout_learner"], metrics["time/reward"]) == (0.5, 0.25)
    assert metrics["response_length/mean"] == 4.0
    assert len(groups.own[0].completions) == 4
    assert metrics["total/tokens_learner"] == 4 + 2 * 4  # also of those that are not trained on


def test_the_missing_ones_are_compared_with(tmp_path: Path, stop: StopRequest) -> None:
    def as_diverse(request: SampleRequest) -> Answer:
        return {3: LEARNER, 4: LEARNER, 5: EXPLORER[2]}[request.sample_id]

    run = filtered_run(tmp_path, stop, explorer=3, learner=1, by_learner=as_diverse)
    _, groups, _ = run.trainer.train_step(1)
    assert kept(groups.own[0].completions) == [True] * 4


def test_only_as_many_learner_answers_as_explorer_ones_are_compared(tmp_path: Path, stop: StopRequest) -> None:
    def late(request: SampleRequest) -> Answer:
        return EXPLORER[2] if request.sample_id == 6 else LEARNER  # the fourth of the learner's

    run = filtered_run(tmp_path, stop, explorer=3, learner=4, by_learner=late)
    _, groups, _ = run.trainer.train_step(1)
    assert kept(groups.own[0].completions) == [True, True, False, True, True, True, True]


@pytest.mark.parametrize("explorer", [0, 1, 2])
def test_few_explorer_answers_are_all_kept(tmp_path: Path, stop: StopRequest, explorer: int) -> None:
    run = filtered_run(
        tmp_path, stop, explorer=explorer, learner=1, by_explorer=lambda request: EXPLORER[2 * request.sample_id]
    )
    _, groups, _ = run.trainer.train_step(1)
    assert kept(groups.own[0].completions) == [True] * (explorer + 1)
    assert len(run.learner.asked) == 1  # nothing to compare, so no more of the learner's


def by_draw(request: SampleRequest) -> Answer:
    """Two different texts, a third one, then the learner's again and again."""
    return {1: EXPLORER[2], 2: Answer((0, 9, 3, 6))}.get(request.draw, LEARNER)


def test_of_more_candidates_those_like_the_learners_are_chosen(tmp_path: Path, stop: StopRequest) -> None:
    run = filtered_run(tmp_path, stop, explorer=3, learner=3, by_explorer=by_draw, candidates=5)
    metrics, groups, advantages_PG = run.trainer.train_step(1)
    # Draws 0, 1 and 2 are the group's at first; 3 and 4, which say what the learner says, take the place of 1 and 2.
    assert [tuple(one.token_ids.tolist()) for one in groups.own[0].completions] == [LEARNER.tokens] * 6
    assert [one.sample_id for one in groups.own[0].completions] == [0, 1, 2, 3, 4, 5]
    assert [one.source for one in groups.own[0].completions] == [1, 1, 1, 0, 0, 0]
    assert kept(groups.own[0].completions) == [True] * 6
    assert metrics["group/kept"] == 6.0
    assert advantages_PG.tolist() == [[0.0] * 6]
    (first, _), (more, params) = run.explorer.asked
    assert ([one.draw for one in first], [one.draw for one in more]) == ([0, 1, 2], [3, 4])
    assert [one.seed for one in more] == [explorer_seed(RUN_SEED, 1, 7, draw) for draw in (3, 4)]
    assert params == SAMPLING
    assert metrics["total/tokens_explorer"] == 5 * 4  # also of those that were not chosen
    run.trainer.train_step(2)
    assert [one.draw for one in run.explorer.asked[2][0]] == [5, 6, 7]  # nothing is drawn twice


@pytest.mark.parametrize("explorer", [0, 1])
def test_of_one_answer_there_is_no_choice(tmp_path: Path, stop: StopRequest, explorer: int) -> None:
    run = filtered_run(tmp_path, stop, explorer=explorer, learner=2, by_explorer=by_draw, candidates=5)
    _, groups, _ = run.trainer.train_step(1)
    assert [one.source for one in groups.own[0].completions] == [1] * explorer + [0, 0]
    assert len(run.explorer.asked) == explorer


class AnswerGrader(ScriptedGrader):
    """Every response is right, and its answer is the next one of the script."""

    def __init__(self, time: ScriptedTime, answers: Sequence[str | None]) -> None:
        super().__init__(time)
        self.answers = iter(answers)

    def grade(self, items: Sequence[GradeItem]) -> list[Grade]:
        return [replace(grade, answer=next(self.answers)) for grade in super().grade(items)]


def kept_of_answers(
    folder: Path, stop: StopRequest, explorer: list[str | None], learner: list[str | None]
) -> list[bool]:
    """All texts are equal, so that answers alone decide."""
    run = filtered_run(folder, stop, explorer=len(explorer), learner=len(learner), by_explorer=lambda request: LEARNER)
    run.trainer.rollouts.grading = Grading(decode, AnswerGrader(run.time, [*explorer, *learner]))
    _, groups, _ = run.trainer.train_step(1)
    return kept(groups.own[0].completions)[: len(explorer)]


def test_answers_alone_can_decide(tmp_path: Path, stop: StopRequest) -> None:
    # 2 distinct answers of 4 against 1 of 4; without the last one 1 of 3, which is nearer.
    same: list[str | None] = ["7"] * 4
    assert kept_of_answers(tmp_path / "a", stop, ["7", "7", "7", "8"], same) == [True, True, True, False]
    assert kept_of_answers(tmp_path / "b", stop, ["7", "7", "7", None], same) == [True, True, True, False]
    assert kept_of_answers(tmp_path / "c", stop, same, ["7", "7", "7", None]) == [True] * 4


def test_two_ways_to_write_an_answer_are_one_answer(tmp_path: Path, stop: StopRequest) -> None:
    assert kept_of_answers(tmp_path, stop, ["7.", " 7", "7", "7"], ["7"] * 4) == [True] * 4


def test_texts_alone_can_decide(tmp_path: Path, stop: StopRequest) -> None:
    texts = [LEARNER, LEARNER, LEARNER, Answer((1, 5, 6, 7))]  # all with answer 7
    run = filtered_run(
        tmp_path / "a", stop, explorer=4, learner=4, by_explorer=lambda request: texts[request.sample_id]
    )
    _, groups, _ = run.trainer.train_step(1)
    assert kept(groups.own[0].completions) == [True, True, True, False, *[True] * 4]
    # The other way round the explorer is the less diverse one.
    run = filtered_run(
        tmp_path / "b", stop, explorer=4, learner=4,
        by_explorer=lambda request: LEARNER, by_learner=lambda request: texts[request.sample_id - 4],
    )  # fmt: skip
    _, groups, _ = run.trainer.train_step(1)
    assert kept(groups.own[0].completions) == [True] * 8


def test_step_and_prompt_decide_between_equal_rollouts(tmp_path: Path, stop: StopRequest) -> None:
    # Without its third or without its fourth answer the explorer is as the learner's first four.
    texts = [LEARNER, LEARNER, Answer((0, 5, 5, 8)), Answer((0, 6, 6, 9)), *[LEARNER] * 3, Answer((0, 5, 5, 8))]
    run = filtered_run(tmp_path, stop, explorer=4, learner=4, by_explorer=lambda r: texts[r.sample_id],
                       by_learner=lambda r: texts[r.sample_id])  # fmt: skip
    tokens, answers = [text.tokens for text in texts], [str(text.tokens[-1]) for text in texts]
    found, expected = [], []
    for step in range(1, 9):
        _, groups, _ = run.trainer.train_step(step)
        found.append([index for index, is_kept in enumerate(kept(groups.own[0].completions)[:4]) if is_kept])
        seed = sample_seed(RUN_SEED, step, 7, 0)
        expected.append(match_learner_diversity(tokens[:4], answers[:4], tokens[4:], answers[4:], 2, seed))
    assert found == expected
    assert len({tuple(one) for one in found}) > 1


@pytest.mark.parametrize("candidates", [None, 5])
def test_the_filter_takes_nothing_of_a_group_that_is_masked(
    tmp_path: Path, stop: StopRequest, candidates: int | None
) -> None:
    def fails_last(request: SampleRequest) -> Answer:
        return Answer((9, 4, 4, 7)) if request.sample_id == 5 else LEARNER

    def again(request: SampleRequest) -> Answer:
        return EXPLORER[request.sample_id % 3]

    run = filtered_run(
        tmp_path, stop, explorer=3, learner=3, candidates=candidates, by_learner=fails_last, by_explorer=again
    )
    run.trainer.algorithm = replace(run.trainer.algorithm, mask_failed=True)
    run.trainer.sampler.algorithm = run.trainer.algorithm
    metrics, groups, _ = run.trainer.train_step(1)
    assert metrics["reward/grader_errors"] == 1
    assert kept(groups.own[0].completions) == [False] * 6
    assert not groups.kept_PG.any()
