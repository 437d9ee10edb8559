"""What must hold for every rule: rows stand for themselves, and what stands outside of responses is nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_nemo.algorithm.losses.aggregation import LossScale
from s2l_nemo.algorithm.options import AGGREGATIONS, IMPORTANCE, AlgorithmConfig
from s2l_nemo.types import Source, TrainBatch
from tests.algorithm.by_hand import make_batch, policy_loss

B, S = 6, 5


def random_batch(seed: int) -> tuple[torch.Tensor, TrainBatch, LossScale]:
    """Log-probs of the policy, six responses of 0 to 5 tokens, some the explorer's, and the counts of all."""
    generator = torch.Generator().manual_seed(seed)

    def normal(scale: float) -> torch.Tensor:
        return torch.randn(B, S, generator=generator) * scale

    mask_BS = (torch.arange(S) < torch.randint(0, S + 1, (B, 1), generator=generator)).float()
    old_BS = -torch.rand(B, S, generator=generator) * 3
    batch = make_batch(
        mask_BS.tolist(),
        torch.randn(B, generator=generator).tolist(),
        [Source(source) for source in torch.randint(0, 2, (B,), generator=generator).tolist()],
        old=old_BS,
        sampler=old_BS + normal(0.5),
        ref=old_BS + normal(0.1),
    )
    scale = LossScale(int(mask_BS.sum()), int(mask_BS.any(1).sum()), max_response_length=8)
    return old_BS + normal(0.3), batch, scale


def loss_and_slope(
    logprobs_BS: torch.Tensor, batch: TrainBatch, options: AlgorithmConfig, scale: LossScale
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    logprobs_BS = logprobs_BS.clone().requires_grad_()
    loss, sums = policy_loss(logprobs_BS, batch, options, scale)
    (slope_BS,) = torch.autograd.grad(loss, logprobs_BS)
    return loss.detach(), slope_BS, sums


@pytest.mark.parametrize("aggregation", AGGREGATIONS.names())
@pytest.mark.parametrize("importance", IMPORTANCE.names())
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([1, 2, 3]), single=st.booleans())
def test_micro_batches_add_up(importance: str, aggregation: str, seed: int, size: int, single: bool) -> None:
    logprobs_BS, batch, scale = random_batch(seed)
    if single:
        batch = batch.with_logprobs(None, batch.ref_logprobs_BS)
    options = AlgorithmConfig(importance=importance, aggregation=aggregation)
    loss, slope_BS, sums = loss_and_slope(logprobs_BS, batch, options, scale)
    parts = [
        loss_and_slope(logprobs_BS[start : start + size], batch.select(slice(start, start + size)), options, scale)
        for start in range(0, B, size)
    ]
    torch.testing.assert_close(torch.stack([part[0] for part in parts]).sum(), loss)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), slope_BS)
    for name, total in sums.items():
        torch.testing.assert_close(torch.stack([part[2][name] for part in parts]).sum(), total)


@pytest.mark.parametrize("importance", IMPORTANCE.names())
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    garbage=st.floats(allow_nan=True, allow_infinity=True, width=32),
    aggregation=st.sampled_from(AGGREGATIONS.names()),
    single=st.booleans(),
)
def test_what_stands_outside_of_responses_is_nothing(
    importance: str, seed: int, garbage: float, aggregation: str, single: bool
) -> None:
    logprobs_BS, batch, scale = random_batch(seed)
    options = AlgorithmConfig(importance=importance, aggregation=aggregation, dual_clip=2.0)
    padded_BS = batch.mask_BS == 0

    def dirty(values_BS: torch.Tensor | None) -> torch.Tensor:
        assert values_BS is not None
        return values_BS.masked_fill(padded_BS, garbage)

    other = replace(
        batch,
        sampler_logprobs_BS=dirty(batch.sampler_logprobs_BS),
        old_logprobs_BS=dirty(batch.old_logprobs_BS),
        ref_logprobs_BS=dirty(batch.ref_logprobs_BS),
    )
    if single:
        batch, other = (one.with_logprobs(None, one.ref_logprobs_BS) for one in (batch, other))
    loss, slope_BS, sums = loss_and_slope(logprobs_BS, batch, options, scale)
    loss_of_other, slope_of_other_BS, sums_of_other = loss_and_slope(dirty(logprobs_BS), other, options, scale)
    assert loss_of_other.item() == loss.item()
    assert torch.equal(slope_of_other_BS, slope_BS)
    assert not slope_BS[padded_BS].any()
    assert sums_of_other == sums


@pytest.mark.parametrize("importance", IMPORTANCE.names())
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_single_update_has_the_gradient_of_one_with_old_log_probs(importance: str, seed: int) -> None:
    """Old log-probs that are the policy's own, detached, carry no gradient; those computed ahead are the same."""
    logprobs_BS, batch, scale = random_batch(seed)
    ahead = batch.with_logprobs(logprobs_BS.clone(), batch.ref_logprobs_BS)
    itself = batch.with_logprobs(None, batch.ref_logprobs_BS)
    options = AlgorithmConfig(importance=importance)
    (loss, slope_BS, sums), found = (loss_and_slope(logprobs_BS, one, options, scale) for one in (ahead, itself))
    assert found[0].item() == loss.item()
    assert torch.equal(found[1], slope_BS)
    assert found[2] == sums


@pytest.mark.parametrize("aggregation", AGGREGATIONS.names())
@pytest.mark.parametrize("importance", [name for name in IMPORTANCE.names() if name != "gepo"])  # it is biased
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_on_policy_a_rule_is_learner_old(importance: str, aggregation: str, seed: int) -> None:
    """Plain GRPO in its first update: the learner sampled every token, and its log-probs are the engine's."""
    logprobs_BS, batch, scale = random_batch(seed)
    learner_B = torch.full((B,), Source.LEARNER)
    batch = replace(batch, source_B=learner_B, sampler_logprobs_BS=logprobs_BS.clone(), old_logprobs_BS=None)
    options = AlgorithmConfig(aggregation=aggregation)
    loss, slope_BS, _ = loss_and_slope(logprobs_BS, batch, options, scale)
    found, found_slope_BS, _ = loss_and_slope(logprobs_BS, batch, replace(options, importance=importance), scale)
    torch.testing.assert_close(found, loss)
    torch.testing.assert_close(found_slope_BS, slope_BS)
