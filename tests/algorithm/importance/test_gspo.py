"""One response of two tokens: pi/pi_old 1.21 and 1, so s = 1.1, whatever the tokens' own ratios."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from s2l_nemo.algorithm.losses.aggregation import LossScale
from s2l_nemo.types import Source
from tests.algorithm.by_hand import NO_KL, make_batch, policy_loss

GSPO = replace(NO_KL, importance="gspo", aggregation="sequence_mean", clip_low=0.15, clip_high=0.15)
SCALE = LossScale(tokens=2, sequences=1, max_response_length=2)


def of_two(
    first: float, second: float, advantage: float, sampler: float = 1.0, **changes: object
) -> tuple[float, list[float], float]:
    """Loss, its slopes and the clipped tokens, of two tokens with these pi. pi_old is 1; the third token is none."""
    batch = make_batch([[1, 1, 0.0]], [advantage], [Source.EXPLORER], old=0.0, sampler=math.log(sampler))
    logprobs_BS = torch.tensor([[math.log(first), math.log(second), 5.0]], requires_grad=True)
    loss, sums = policy_loss(logprobs_BS, batch, replace(GSPO, **changes), SCALE)  # type: ignore[arg-type]
    (slope_BS,) = torch.autograd.grad(loss, logprobs_BS)
    return loss.item(), slope_BS[0].tolist(), sums["clipped"].item()


def test_the_gradient_goes_to_all_tokens_alike() -> None:
    loss, slopes, clipped = of_two(1.21, 1.0, advantage=2.0)
    assert loss == pytest.approx(-1.1 * 2)
    assert slopes == pytest.approx([-1.1, -1.1, 0.0])  # s A / |y| each
    assert clipped == 0


def test_a_response_is_clipped_as_a_whole() -> None:
    # 4 x 0.36 = 1.44: s = 1.2 is above 1.15. Alone, the second token would be below the band.
    loss, slopes, clipped = of_two(4.0, 0.36, advantage=1.0)
    assert loss == pytest.approx(-1.15)
    assert slopes == [0.0, 0.0, 0.0]
    assert clipped == 2
    loss, slopes, clipped = of_two(4.0, 0.36, advantage=-1.0)
    assert loss == pytest.approx(1.2)
    assert slopes == pytest.approx([0.6, 0.6, 0.0])
    assert clipped == 0


def test_a_response_counts_by_its_length_in_a_mean_over_tokens() -> None:
    batch = make_batch([[1, 1.0], [1, 0.0]], [1.0, 3.0], [Source.LEARNER] * 2)
    logprobs_BS = torch.log(torch.tensor([[1.21, 1.0], [0.9, 7.0]]))
    scale = LossScale(tokens=3, sequences=2, max_response_length=2)
    loss, _ = policy_loss(logprobs_BS, batch, replace(GSPO, aggregation="token_mean"), scale)
    assert loss.item() == pytest.approx(-(2 * 1.1 + 0.9 * 3) / 3)
    loss, _ = policy_loss(logprobs_BS, batch, GSPO, scale)
    assert loss.item() == pytest.approx(-(1.1 + 0.9 * 3) / 2)


def test_the_ratio_to_the_sampler() -> None:
    # both tokens have sampler probability 1.1: s = 1.1 / 1.1
    loss, slopes, _ = of_two(1.21, 1.0, advantage=2.0, sampler=1.1, ratio_to_sampler=True)
    assert loss == pytest.approx(-2)
    assert slopes == pytest.approx([-1, -1, 0])
