"""`truncated_sequence` and `masked_geometric` on responses of two tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from s2l_nemo.algorithm.losses.aggregation import LossScale
from s2l_nemo.algorithm.options import AlgorithmConfig
from s2l_nemo.types import Source
from tests.algorithm.by_hand import NO_KL, make_batch, policy_loss

PI_OVER_OLD = 1.1


def slopes(options: AlgorithmConfig, old_over_sampler: tuple[float, float]) -> tuple[list[float], float]:
    """Slopes of two tokens with A = 1 and these pi_old/pi_sampler, and the rejected tokens. The third is none."""
    old_BS = torch.log(torch.tensor([[*old_over_sampler, 50.0]]))
    batch = make_batch([[1, 1, 0.0]], [1.0], [Source.EXPLORER], old=old_BS, sampler=0.0)
    logprobs_BS = (old_BS + torch.tensor(PI_OVER_OLD).log()).requires_grad_()
    loss, sums = policy_loss(logprobs_BS, batch, options, LossScale(2, 1, 2))
    (slope_BS,) = torch.autograd.grad(loss, logprobs_BS)
    return slope_BS[0].tolist(), sums["rejected"].item()


@pytest.mark.parametrize(
    ("old_over_sampler", "weight"), [((3.0, 0.5), 1.5), ((3.0, 1.0), 2.0), ((0.2, 0.1), 0.02), ((40.0, 40.0), 2.0)]
)
def test_the_product_of_the_response_is_truncated(old_over_sampler: tuple[float, float], weight: float) -> None:
    found, rejected = slopes(replace(NO_KL, importance="truncated_sequence"), old_over_sampler)
    assert found == pytest.approx([-PI_OVER_OLD * weight / 2] * 2 + [0], rel=1e-4)
    assert rejected == 0


@pytest.mark.parametrize(
    ("old_over_sampler", "accepted"),
    # geometric means 1, sqrt 2, 4, 0.1; the band is 0.5 to 2
    [((4.0, 0.25), True), ((4.0, 0.5), True), ((4.0, 4.0), False), ((0.1, 0.1), False)],
)
def test_the_geometric_mean_of_the_response_is_masked(old_over_sampler: tuple[float, float], accepted: bool) -> None:
    found, rejected = slopes(replace(NO_KL, importance="masked_geometric"), old_over_sampler)
    assert found == pytest.approx([-PI_OVER_OLD / 2 * accepted] * 2 + [0], rel=1e-4)
    assert rejected == (0 if accepted else 2)


@pytest.mark.parametrize(("cap", "accepted"), [(1.9, False), (2.1, True)])
def test_the_band_has_its_keys(cap: float, accepted: bool) -> None:
    options = replace(NO_KL, importance="masked_geometric", importance_cap=cap, importance_floor=0.9)
    assert slopes(options, (4.0, 1.0))[1] == (0 if accepted else 2)
