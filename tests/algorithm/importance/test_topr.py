"""Positive responses have weight 1; negative ones the ratio of the whole response, at most 1."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from s2l_nemo.algorithm.losses.aggregation import LossScale
from s2l_nemo.types import Source
from tests.algorithm.by_hand import NO_KL, make_batch, one_token, policy_loss

TOPR = replace(NO_KL, importance="topr", dual_clip=1.1)


@pytest.mark.parametrize(
    ("pi_over_sampler", "advantage", "weight"),
    [(0.25, 2.0, 1.0), (4.0, 2.0, 1.0), (0.25, -2.0, 0.25), (4.0, -2.0, 1.0), (1e-9, -2.0, 1e-9), (0.25, 0.0, 0.0)],
)
def test_one_token(pi_over_sampler: float, advantage: float, weight: float) -> None:
    sampler = min(1.0, 1 / pi_over_sampler)
    loss, slope, sums = one_token(
        TOPR, pi=pi_over_sampler * sampler, advantage=advantage, old=0.5, sampler=sampler, source=Source.EXPLORER
    )
    assert (loss, slope) == pytest.approx((-weight * advantage, -weight * advantage), rel=1e-4)
    assert sums["clipped"] == 0


def test_the_ratio_is_of_the_whole_response() -> None:
    # pi/sampler: 0.5 x 0.5 x 3 = 0.75 and 2 x 0.25 x 3 = 1.5, which counts as 1
    batch = make_batch([[1, 1, 1.0], [1, 1, 1.0]], [-1.0, -1.0], [Source.EXPLORER] * 2, old=9.0, sampler=math.log(0.1))
    logprobs_BS = torch.log(torch.tensor([[0.05, 0.05, 0.3], [0.2, 0.025, 0.3]])).requires_grad_()
    loss, _ = policy_loss(logprobs_BS, batch, TOPR, LossScale(tokens=6, sequences=2, max_response_length=3))
    (slope_BS,) = torch.autograd.grad(loss, logprobs_BS)
    assert loss.item() == pytest.approx(3 * (0.75 + 1) / 6)
    assert slope_BS.tolist() == [pytest.approx([0.125] * 3), pytest.approx([1 / 6] * 3)]
