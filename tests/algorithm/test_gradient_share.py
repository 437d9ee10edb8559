"""The sum of |d loss / d log-prob| over tokens, worked out by hand, and what its parts add up to."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.algorithm.losses.aggregation import LossScale
from s2l_nemo.algorithm.losses.policy import PolicyLoss
from s2l_nemo.algorithm.options import IMPORTANCE, AlgorithmConfig
from s2l_nemo.types import Source
from tests.algorithm.by_hand import NO_KL, make_batch

# Row 0 has three tokens, row 1 two, row 2 one.
MASK = [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
SOURCES = [Source.EXPLORER, Source.LEARNER, Source.LEARNER]
SCALE = LossScale(tokens=6, sequences=3, max_response_length=4)


def gradient_sums(options: AlgorithmConfig, logprob: float = 0.0, ref: float | None = None) -> dict[str, float]:
    batch = make_batch(MASK, [2.0, -1.0, 3.0], SOURCES, ref=ref)
    logprobs_BS = torch.full((3, 3), logprob, requires_grad=True)
    _, sums = PolicyLoss.of(options)(logprobs_BS, batch, SCALE)
    return {name: value.item() for name, value in sums.items() if name.startswith("gradient_sum")}


def test_before_an_update_it_is_the_advantage_over_the_tokens() -> None:
    """The ratio is 1, and the loss of a token -A / 6."""
    assert gradient_sums(NO_KL) == {
        "gradient_sum": pytest.approx((3 * 2 + 2 * 1 + 3) / 6),
        "gradient_sum_explorer": pytest.approx(3 * 2 / 6),
        "gradient_sum_learner": pytest.approx((2 * 1 + 3) / 6),
    }


def test_each_answer_counts_alike_if_the_loss_has_it_so() -> None:
    """-A / (3 answers times the tokens of the answer)."""
    found = gradient_sums(replace(NO_KL, aggregation="sequence_mean"))
    assert found["gradient_sum_explorer"] == pytest.approx(2 / 3)
    assert found["gradient_sum_learner"] == pytest.approx((1 + 3) / 3)


def test_a_clipped_token_has_none() -> None:
    """Ratio e^0.5 = 1.65 is above 1.2: it stops where A > 0."""
    found = gradient_sums(NO_KL, logprob=0.5)
    assert found["gradient_sum_explorer"] == 0
    assert found["gradient_sum_learner"] == pytest.approx(2 * 1.6487213 / 6)


def test_the_kl_term_belongs_to_it() -> None:
    """k1 adds its coefficient to each token: |-A + 0.5|."""
    found = gradient_sums(AlgorithmConfig(kl_coef=0.5, kl_estimator="k1"), ref=-1.0)  # type: ignore[arg-type]
    assert found["gradient_sum_explorer"] == pytest.approx(3 * 1.5 / 6)
    assert found["gradient_sum_learner"] == pytest.approx((2 * 1.5 + 2.5) / 6)


@given(st.sampled_from(IMPORTANCE.names()), st.lists(st.floats(-2, 0), min_size=9, max_size=9))
def test_it_is_what_the_backward_pass_gives(rule: str, logprobs: list[float]) -> None:
    """Of every rule, and the loss can still be differentiated."""
    batch = make_batch(MASK, [2.0, -1.0, 3.0], SOURCES, old=-0.75, sampler=-1.0)
    logprobs_BS = torch.tensor(logprobs).view(3, 3).requires_grad_()
    loss, sums = PolicyLoss.of(replace(NO_KL, importance=rule))(logprobs_BS, batch, SCALE)
    loss.backward()
    assert logprobs_BS.grad is not None
    gradient_B = logprobs_BS.grad.double().abs().sum(1)
    assert sums["gradient_sum"].item() == pytest.approx(gradient_B.sum().item())
    assert sums["gradient_sum_explorer"].item() == pytest.approx(gradient_B[0].item())
    assert logprobs_BS.grad[~batch.mask_BS.bool()].abs().sum() == 0


def test_without_a_gradient_there_is_none() -> None:
    batch = make_batch(MASK, [2.0, -1.0, 3.0], SOURCES)
    _, sums = PolicyLoss.of(NO_KL)(torch.zeros(3, 3), batch, SCALE)
    assert "gradient_sum" not in sums
