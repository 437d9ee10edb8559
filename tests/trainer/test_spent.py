"""What a run has spent, by hand. Figures of `small_shape`: 22 FLOP a token, 8 a pair, 4 a token of the output layer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from s2l_nemo.models.flops import group_flops
from s2l_nemo.trainer.clock import Clock
from s2l_nemo.trainer.exchange import StepGroups
from s2l_nemo.trainer.progress import Progress
from s2l_nemo.trainer.spent import count_sampled, count_updates, rows_flops, totals
from s2l_nemo.types import Source, TrainBatch
from tests.models.shapes import small_shape
from tests.trainer.scripted import prompts

SHAPE = small_shape()
LARGER = small_shape(layers=2)
PROMPTS = prompts(5, 6)  # of 3 and of 1 tokens


def groups(sources_PG: list[list[int]], lengths_PG: list[list[int]]) -> StepGroups:
    source_PG, length_PG = torch.tensor(sources_PG), torch.tensor(lengths_PG)
    empty_PG = torch.zeros_like(source_PG, dtype=torch.bool)
    return StepGroups({}, (0, 0), source_PG, length_PG, empty_PG, empty_PG.double(), empty_PG, empty_PG, ~empty_PG)


def rows(prompt_ids: list[int], prompt: list[int], length: list[int]) -> TrainBatch:
    B = len(prompt_ids)
    ones_BS = torch.ones(B, 3)
    return TrainBatch(
        tokens_BT=torch.zeros(B, 4, dtype=torch.long),
        mask_BS=ones_BS,
        sampler_logprobs_BS=ones_BS,
        advantages_B=torch.ones(B),
        source_B=torch.zeros(B, dtype=torch.long),
        prompt_length_B=torch.tensor(prompt),
        length_B=torch.tensor(length),
        prompt_id_B=torch.tensor(prompt_ids),
        sample_id_B=torch.arange(B),
    )


def test_a_group_by_hand() -> None:
    """Tokens 3 + 2 + 4; pairs 4.5 of the prompt, 2 * (3 + 1) and 4 * (3 + 2) of the answers; 6 targets."""
    work = group_flops(SHAPE, 3, [2, 4])
    assert (work.layers, work.output) == (22 * 9 + 8 * 32.5, 4 * 6)
    assert work.whole == 482
    twice = group_flops(SHAPE, 3, [2, 4], copies=2)
    assert twice.layers - work.layers == 22 * 3 + 8 * 4.5


def test_answers_count_once_for_each_sampler() -> None:
    progress = Progress()
    sampled = groups([[1, 0, 2], [0, 0, 0]], [[2, 4, 1], [1, 1, 1]])
    count_sampled(progress, PROMPTS, sampled, {Source.LEARNER: SHAPE, 1: SHAPE, 2: LARGER})
    one, four, larger = (group_flops(shape, 3, [n]).whole for shape, n in ((SHAPE, 2), (SHAPE, 4), (LARGER, 1)))
    assert progress.totals == {
        "tokens_learner": 4 + 3,
        "flops_learner": four + group_flops(SHAPE, 1, [1, 1, 1]).whole,
        "tokens_explorer": 2 + 1,
        "flops_explorer": one + larger,
    }


def test_what_was_counted_before_is_left_out() -> None:
    progress = Progress()
    sampled = groups([[0, 0, 1], [0, 0, 0]], [[2, 4, 1], [1, 2, 3]])
    count_sampled(progress, PROMPTS, sampled, {Source.LEARNER: SHAPE, 1: SHAPE}, first=2)
    assert (progress.totals["tokens_explorer"], progress.totals["tokens_learner"]) == (1, 3)
    assert progress.totals["flops_learner"] == group_flops(SHAPE, 1, [3]).whole


def test_stored_rollouts_cost_nothing() -> None:
    progress = Progress()
    count_sampled(progress, PROMPTS, groups([[1, 0], [1, 0]], [[2, 4], [1, 1]]), {Source.LEARNER: SHAPE})
    assert progress.totals["tokens_explorer"] == 3
    assert "flops_explorer" not in progress.totals


def test_rows_of_an_update_share_their_prompt() -> None:
    found = rows_flops(SHAPE, rows([5, 5, 6], prompt=[3, 3, 1], length=[5, 7, 2]))
    assert found == group_flops(SHAPE, 3, [2, 4]).whole + group_flops(SHAPE, 1, [1]).whole


@pytest.mark.parametrize(("ahead", "reference", "passes", "times"), [(0, 0, 1, 3), (1, 0, 1, 4), (1, 1, 2, 8)])
def test_an_update_is_three_forward_passes(ahead: int, reference: int, passes: int, times: int) -> None:
    progress = Progress()
    batch = rows([5], [3], [5])
    given = replace(
        batch,
        old_logprobs_BS=batch.mask_BS if ahead else None,
        ref_logprobs_BS=batch.mask_BS if reference else None,
    )
    count_updates(progress, [(given, 100.0), (given, 10.0)], passes)
    assert progress.totals == {"flops_trained": times * 110.0}


def test_totals_add_up_over_steps() -> None:
    progress = Progress(totals={"flops_learner": 3.0, "flops_trained": 5.0, "prompts": 2.0})
    found = totals(progress, asked=4, trained_tokens=7.0, clock=Clock(lambda: 0.0))
    assert (found["total/prompts"], found["total/tokens_trained"], found["total/flops"]) == (6, 7, 8)
    assert found["total/flops_explorer"] == found["total/tokens_explorer"] == 0
    again = totals(Progress.of(progress.state() | {"step": 1}, 1), 4, 7.0, Clock(lambda: 0.0))
    assert (again["total/prompts"], again["total/tokens_trained"], again["total/flops"]) == (10, 14, 8)
