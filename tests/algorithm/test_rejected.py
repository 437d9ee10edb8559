"""What a loss is divided by, if its rule rejects tokens."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_nemo.algorithm.losses.aggregation import LossScale
from s2l_nemo.algorithm.losses.policy import PolicyLoss
from s2l_nemo.algorithm.options import AGGREGATIONS, IMPORTANCE, AlgorithmConfig, KLEstimator, Rejected
from s2l_nemo.types import Source, TrainBatch
from tests.algorithm.by_hand import make_batch
from tests.algorithm.importance.test_properties import loss_and_slope, random_batch

# `masked` accepts pi_old/pi_sampler from 0.5 to 2
DROP = AlgorithmConfig(importance="masked", rejected=Rejected.drop, kl_coef=0.5, kl_estimator=KLEstimator.k1)
LIMIT = 8  # tokens of a response


def three_rows() -> TrainBatch:
    """Row 0 keeps one token of three, row 1 both of its two, row 2 none of one. A is 1, 2 and 3; k1 of a token is 0.25.

    Accepted tokens weigh pi_old/pi_sampler = 1.
    """
    correction_BS = torch.tensor([[1.0, 3.0, 0.1], [1.0, 1.0, 1.0], [9.0, 1.0, 1.0]])
    old_BS = torch.full((3, 3), -1.0)
    return make_batch(
        [[1, 1, 1.0], [1, 1, 0.0], [1, 0, 0.0]],
        [1.0, 2.0, 3.0],
        [Source.EXPLORER] * 3,
        old=old_BS,
        sampler=old_BS - correction_BS.log(),
        ref=-1.25,
    )


def of(options: AlgorithmConfig, batch: TrainBatch) -> tuple[float, torch.Tensor]:
    tokens, sequences = PolicyLoss.of(options).counts(batch)
    logprobs_BS = torch.full(batch.mask_BS.shape, -1.0)
    loss, slope_BS, _ = loss_and_slope(logprobs_BS, batch, options, LossScale(tokens, sequences, LIMIT))
    return loss.item(), slope_BS


def test_counts() -> None:
    assert PolicyLoss.of(DROP).counts(three_rows()) == (3, 2)
    assert PolicyLoss.of(replace(DROP, rejected=Rejected.keep)).counts(three_rows()) == (6, 3)


@pytest.mark.parametrize(
    ("aggregation", "keep", "drop"),
    [
        # losses of tokens: -1 + 0.125, twice -2 + 0.125; rejected ones have their KL 0.125 if they are kept
        ("token_mean", (-1 - 4 + 6 * 0.125) / 6, (-1 - 4 + 3 * 0.125) / 3),
        ("sequence_mean", (-1 / 3 - 2 + 3 * 0.125) / 3, (-1 - 2 + 2 * 0.125) / 2),
        ("constant", (-1 - 4 + 6 * 0.125) / (3 * LIMIT), (-1 - 4 + 3 * 0.125) / (2 * LIMIT)),
    ],
)
def test_the_division(aggregation: str, keep: float, drop: float) -> None:
    options = replace(DROP, aggregation=aggregation)
    assert of(options, three_rows())[0] == pytest.approx(drop)
    assert of(replace(options, rejected=Rejected.keep), three_rows())[0] == pytest.approx(keep)


def test_dropped_tokens_have_no_gradient_at_all() -> None:
    _, slope_BS = of(DROP, three_rows())
    # a loss is -A and 0.5 log pi
    assert slope_BS.tolist() == [
        pytest.approx([-0.5 / 3, 0, 0]), pytest.approx([-1.5 / 3, -1.5 / 3, 0]), [0, 0, 0],
    ]  # fmt: skip


def test_a_mini_batch_of_which_nothing_is_accepted_has_loss_zero() -> None:
    batch = three_rows()
    batch = replace(batch, sampler_logprobs_BS=batch.sampler_logprobs_BS - math.log(1000))
    assert PolicyLoss.of(DROP).counts(batch) == (0, 0)
    for aggregation in AGGREGATIONS.names():
        loss, slope_BS = of(replace(DROP, aggregation=aggregation), batch)
        assert loss == 0
        assert not slope_BS.any()


def test_old_log_probs_are_needed_ahead() -> None:
    with pytest.raises(AssertionError, match="depends on old log-probs"):
        PolicyLoss.of(DROP).counts(three_rows().with_logprobs(None, None))


@pytest.mark.parametrize("importance", IMPORTANCE.names())
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([1, 2, 3]), aggregation=st.sampled_from(AGGREGATIONS.names()))
def test_micro_batches_add_up(importance: str, seed: int, size: int, aggregation: str) -> None:
    logprobs_BS, batch, _ = random_batch(seed)
    options = AlgorithmConfig(importance=importance, aggregation=aggregation, rejected=Rejected.drop)
    parts = list(batch.split(size))
    counts = [PolicyLoss.of(options).counts(part) for part in parts]
    tokens, sequences = (sum(each) for each in zip(*counts, strict=True))
    assert PolicyLoss.of(options).counts(batch) == (tokens, sequences)
    scale = LossScale(tokens, sequences, LIMIT)
    loss, slope_BS, sums = loss_and_slope(logprobs_BS, batch, options, scale)
    found = [loss_and_slope(*each, options, scale) for each in zip(logprobs_BS.split(size), parts, strict=True)]
    torch.testing.assert_close(torch.stack([each[0] for each in found]).sum(), loss)
    torch.testing.assert_close(torch.cat([each[1] for each in found]), slope_BS)
    assert sums["tokens"].item() - sums["rejected"].item() == tokens


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), rejected=st.sampled_from(Rejected))
def test_a_rule_that_accepts_everything_divides_by_everything(seed: int, rejected: Rejected) -> None:
    _, batch, scale = random_batch(seed)
    assert PolicyLoss.of(AlgorithmConfig(rejected=rejected)).counts(batch) == (scale.tokens, scale.sequences)
