"""The entropy that is taken off the loss: by hand, for each aggregation, source and kind of token."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from s2l_nemo.algorithm.losses.aggregation import LossScale
from s2l_nemo.algorithm.losses.policy import PolicyLoss
from s2l_nemo.algorithm.options import AlgorithmConfig, Rejected
from s2l_nemo.types import Source
from tests.algorithm.by_hand import make_batch

BONUS = AlgorithmConfig(kl_coef=0.0, entropy_coef=0.5)
SCALE = LossScale(tokens=3, sequences=2, max_response_length=4)
# Row 0 has two tokens, row 1 one. Their entropies are 1, 2 and 4; the others are none.
BATCH = make_batch([[1, 1, 0.0], [1, 0, 0.0]], [0.0, 0.0], [Source.LEARNER, Source.EXPLORER])
ENTROPY_BS = torch.tensor([[1.0, 2.0, torch.nan], [4.0, torch.inf, torch.nan]])


@pytest.mark.parametrize(
    ("aggregation", "loss", "slopes"),
    [
        ("token_mean", -0.5 * 7 / 3, [[-0.5 / 3, -0.5 / 3, 0], [-0.5 / 3, 0, 0]]),
        ("sequence_mean", -0.5 * (1.5 + 4) / 2, [[-0.125, -0.125, 0], [-0.25, 0, 0]]),
        ("constant", -0.5 * 7 / 8, [[-0.0625, -0.0625, 0], [-0.0625, 0, 0]]),
    ],
)
def test_by_hand(aggregation: str, loss: float, slopes: list[list[float]]) -> None:
    entropy_BS = ENTROPY_BS.clone().requires_grad_()
    options = replace(BONUS, aggregation=aggregation)
    found, sums = PolicyLoss.of(options)(torch.zeros(2, 3), BATCH, SCALE, entropy_BS)
    assert found.item() == pytest.approx(loss)
    (slope_BS,) = torch.autograd.grad(found, entropy_BS)
    assert slope_BS.tolist() == [pytest.approx(row) for row in slopes]
    assert sums["tokens"].item() == 3


def test_a_dropped_token_has_none() -> None:
    batch = replace(BATCH, sampler_logprobs_BS=torch.tensor([[0.0, -9.0, 0.0], [0.0, 0.0, 0.0]]))
    for rejected, total in ((Rejected.keep, 7), (Rejected.drop, 5)):
        options = replace(BONUS, importance="masked", rejected=rejected)
        found, _ = PolicyLoss.of(options)(torch.zeros(2, 3), batch, SCALE, ENTROPY_BS)
        assert found.item() == pytest.approx(-0.5 * total / 3)


def test_without_a_coefficient_it_is_not_looked_at() -> None:
    found, _ = PolicyLoss.of(replace(BONUS, entropy_coef=0.0))(torch.zeros(2, 3), BATCH, SCALE, ENTROPY_BS)
    assert found.item() == 0


def test_a_bonus_needs_the_entropy() -> None:
    with pytest.raises(AssertionError, match="an entropy bonus needs the entropy"):
        PolicyLoss.of(BONUS)(torch.zeros(2, 3), BATCH, SCALE)
