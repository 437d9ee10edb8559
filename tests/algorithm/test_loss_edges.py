"""Ends of ranges in the losses: one sequence, bounds of the band, the largest ratio."""

from __future__ import annotations

import math

import pytest
import torch

from s2l_nemo.algorithm.losses.aggregation import LossScale, constant, sequence_mean, token_mean
from s2l_nemo.algorithm.losses.importance.learner_old import LearnerOld
from s2l_nemo.algorithm.losses.importance.masked import Masked
from s2l_nemo.algorithm.losses.importance.rule import RuleInput, ratio
from s2l_nemo.algorithm.losses.policy import PolicyLoss
from s2l_nemo.algorithm.options import AlgorithmConfig
from s2l_nemo.types import Source, TrainBatch


def test_aggregations_of_one_sequence_with_one_token() -> None:
    losses_BS, mask_BS = torch.tensor([[0.0, 3.0]]), torch.tensor([[0.0, 1.0]])
    scale = LossScale(tokens=1, sequences=1, max_response_length=6)
    assert token_mean(losses_BS, mask_BS, scale).item() == 3.0
    assert sequence_mean(losses_BS, mask_BS, scale).item() == 3.0
    assert constant(losses_BS, mask_BS, scale).item() == 0.5


def tokens(policy: float, old: float, sampler: float) -> RuleInput:
    policy_BS, old_BS, sampler_BS = (torch.tensor([[value]]) for value in (policy, old, sampler))
    yes_BS = torch.tensor([[True]])
    one_B1 = torch.ones(1, 1)
    return RuleInput(policy_BS, old_BS, sampler_BS, yes_BS, yes_BS, one_B1, one_B1.long(), one_B1.long(), one_B1.long())


@pytest.mark.parametrize(
    ("floor", "cap", "accepted"),
    [(1.0, 2.0, True), (0.5, 1.0, True), (1.0, 1.0, True), (1.001, 2.0, False), (0.5, 0.999, False)],
)
def test_the_band_includes_its_ends(floor: float, cap: float, accepted: bool) -> None:
    found = Masked(importance_floor=floor, importance_cap=cap)(tokens(-1.0, -2.0, -2.0))  # old / sampler is 1
    assert (found.weight_BS.item(), found.accepted_BS.item()) == (1.0, accepted)
    assert found.ratio_BS.item() == pytest.approx(math.e)


@pytest.mark.parametrize(("difference", "expected"), [(19.0, 19.0), (21.0, 20.0), (-19.0, -19.0), (-21.0, -20.0)])
def test_a_ratio_is_bounded_by_the_exponential_of_20(difference: float, expected: float) -> None:
    bounded = ratio(torch.tensor(difference), torch.tensor(0.0)).item()
    assert bounded == pytest.approx(math.exp(expected), rel=1e-5)
    assert LearnerOld()(tokens(difference, 0.0, 5.0)).ratio_BS.item() == bounded


def test_sums_are_in_double_precision_and_without_a_gradient() -> None:
    ones = torch.ones(1, 3)
    batch = TrainBatch(
        tokens_BT=torch.zeros(1, 4, dtype=torch.long),
        mask_BS=ones,
        sampler_logprobs_BS=-0.75 * ones,
        advantages_B=torch.ones(1),
        source_B=torch.tensor([Source.LEARNER]),
        prompt_length_B=torch.ones(1, dtype=torch.long),
        length_B=torch.tensor([4]),
        prompt_id_B=torch.zeros(1, dtype=torch.long),
        sample_id_B=torch.zeros(1, dtype=torch.long),
        old_logprobs_BS=-ones,
        ref_logprobs_BS=-ones,
    )
    loss, sums = PolicyLoss.of(AlgorithmConfig())((-ones).requires_grad_(), batch, LossScale(3, 1, 3))
    assert loss.requires_grad
    assert {(value.dtype, value.requires_grad, value.dim()) for value in sums.values()} == {(torch.float64, False, 0)}
    assert sums["logprob_diff_sum"].item() == 3 * 0.25
    names = (
        "tokens", "clipped", "rejected", "ratio_sum", "logprob_diff_sum", "weight_sum", "weight_square_sum",
        "sampler_kl_sum", "kl_sum", "gradient_sum",
    )  # fmt: skip
    assert set(sums) == {f"{name}{suffix}" for name in names for suffix in ("", "_explorer", "_learner")}


@pytest.mark.parametrize(("advantage", "objective"), [(0.5, 1.2 * 0.5), (-0.5, -3.0 * 0.5), (0.0, 0.0)])
def test_dual_clip_is_for_negative_advantages_alone(advantage: float, objective: float) -> None:
    loss = PolicyLoss.of(AlgorithmConfig(dual_clip=3.0))
    found_BS, clipped_BS = loss.clipped_surrogate(
        torch.tensor([[5.0]]), torch.tensor([[advantage]]), torch.tensor([[False]])
    )
    assert found_BS.item() == pytest.approx(objective)
    assert clipped_BS.item() == (advantage != 0.0)
