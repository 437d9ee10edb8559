from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.algorithm.losses.aggregation import LossScale
from s2l_nemo.algorithm.losses.importance.masked import Masked
from s2l_nemo.algorithm.losses.kl import kl_penalty
from s2l_nemo.algorithm.losses.policy import PolicyLoss
from s2l_nemo.algorithm.options import AGGREGATIONS, IMPORTANCE, AlgorithmConfig, KLEstimator
from s2l_nemo.errors import UserError
from s2l_nemo.types import Source
from tests.algorithm.by_hand import NO_KL, ONE, make_batch, one_token, policy_loss

# They differ in what they make of old and sampler log-probs that differ, and of explorer tokens.
CORRECTIONS = [
    "learner_old", "behavior", "truncated", "masked", "shaped", "luffy", "truncated_sequence", "masked_geometric",
    "icepop", "jackpot",
]  # fmt: skip


@pytest.mark.parametrize(
    ("params", "pi_over_old", "advantage", "loss", "gradient", "clipped"),
    [
        # inside the trust region: -r A, derivative by log pi the same
        (NO_KL, 1.1, 2.0, -2.2, -2.2, 0),
        # above it with A > 0: stopped at 1.2; with A < 0: not
        (NO_KL, 1.5, 2.0, -2.4, 0.0, 1),
        (NO_KL, 1.5, -2.0, 3.0, 3.0, 0),
        # below it with A < 0: stopped at 0.8; with A > 0: not
        (NO_KL, 0.5, -2.0, 1.6, 0.0, 1),
        (NO_KL, 0.5, 2.0, -1.0, -1.0, 0),
        (replace(NO_KL, clip_high=0.6), 1.5, 2.0, -3.0, -3.0, 0),
        (replace(NO_KL, clip_low=0.6), 0.5, -2.0, 1.0, 1.0, 0),
        # null: no bound on that side
        (replace(NO_KL, clip_high=None), 1.5, 2.0, -3.0, -3.0, 0),
        (replace(NO_KL, clip_high=None), 0.5, -2.0, 1.6, 0.0, 1),
        (replace(NO_KL, clip_low=None), 0.5, -2.0, 1.0, 1.0, 0),
        (replace(NO_KL, clip_low=None), 1.5, 2.0, -2.4, 0.0, 1),
        (replace(NO_KL, clip_low=None, clip_high=None), 9.0, 2.0, -18.0, -18.0, 0),
        (replace(NO_KL, clip_low=None, clip_high=None), 0.01, -2.0, 0.02, 0.02, 0),
        (replace(NO_KL, clip_low=None, clip_high=None, dual_clip=3.0), 5.0, -2.0, 6.0, 0.0, 1),
        # dual clip: the loss of a negative advantage stays under c |A|
        (replace(NO_KL, dual_clip=3.0), 5.0, -2.0, 6.0, 0.0, 1),
        (replace(NO_KL, dual_clip=3.0), 2.0, -2.0, 4.0, 4.0, 0),
        (replace(NO_KL, dual_clip=3.0), 5.0, 2.0, -2.4, 0.0, 1),
        (NO_KL, 1.5, 0.0, 0.0, 0.0, 0),
    ],
)
def test_clipping(
    params: AlgorithmConfig, pi_over_old: float, advantage: float, loss: float, gradient: float, clipped: int
) -> None:
    value, slope, sums = one_token(params, pi=pi_over_old, advantage=advantage)
    assert (value, slope) == pytest.approx((loss, gradient), abs=1e-6)
    assert sums["clipped"] == clipped
    assert sums["ratio_sum"] == pytest.approx(pi_over_old)


@pytest.mark.parametrize(
    ("importance", "source", "loss", "gradient"),
    [
        # pi 0.55, old 0.5, sampler 0.4, A 1: pi/old 1.1, old/sampler 1.25, pi/sampler 1.375
        ("learner_old", 1, -1.1, -1.1),
        ("behavior", 1, -1.2, 0.0),  # 1.375 is clipped
        ("behavior", 0, -1.2, 0.0),
        ("truncated", 1, -1.25 * 1.1, -1.25 * 1.1),
        ("truncated", 0, -1.25 * 1.1, -1.25 * 1.1),
        ("masked", 1, -1.25 * 1.1, -1.25 * 1.1),
        # x = 1.375: f = x / (x + 0.1), x f'(x) = 0.1 x / (x + 0.1)^2
        ("shaped", 1, -1.375 / 1.475, -0.1375 / 1.475**2),
        ("shaped", 0, -1.1, -1.1),
    ],
)
def test_importance(importance: str, source: int, loss: float, gradient: float) -> None:
    params = replace(NO_KL, importance=importance)
    value, slope, _ = one_token(params, pi=0.55, old=0.5, sampler=0.4, advantage=1.0, source=source)
    assert (value, slope) == pytest.approx((loss, gradient), abs=1e-5)


@pytest.mark.parametrize(
    ("importance", "old_over_sampler", "weight"),
    [
        ("truncated", 4.0, 2.0),
        ("truncated", 0.25, 0.25),
        ("masked", 4.0, 0.0),
        ("masked", 0.25, 0.0),
        ("masked", 2.0, 2.0),
    ],
)
def test_correction_outside_the_band(importance: str, old_over_sampler: float, weight: float) -> None:
    params = replace(NO_KL, importance=importance, importance_cap=2.0 + 1e-6)
    value, _, _ = one_token(params, pi=1.0, old=1.0, sampler=1 / old_over_sampler, advantage=1.0)
    assert value == pytest.approx(-weight, abs=1e-4)


def test_shaped_explorer_tokens_are_never_clipped() -> None:
    params = replace(NO_KL, importance="shaped", dual_clip=1.5)
    # x = 0.05, A < 0: f(x) = 1/3 lies below 1 - clip_low, and still the gradient flows
    value, slope, sums = one_token(params, pi=0.05, advantage=-3.0, source=Source.EXPLORER)
    assert value == pytest.approx(1.0)
    assert slope == pytest.approx(3 * 0.05 * 0.1 / 0.15**2)
    assert sums["clipped"] == 0


@pytest.mark.parametrize("importance", IMPORTANCE.names())
def test_before_the_first_update_the_old_logprobs_are_those_of_the_policy(importance: str) -> None:
    generator = torch.Generator().manual_seed(3)
    logprobs_BS = -torch.rand(2, 4, generator=generator) * 3
    given = make_batch(
        [[1, 1, 1, 0.0], [1, 1, 0, 0.0]], [1.0, -0.5], [Source.LEARNER, Source.EXPLORER], old=logprobs_BS, sampler=-1.0
    )
    scale, params = (
        LossScale(tokens=5, sequences=2, max_response_length=8),
        AlgorithmConfig(importance=importance, kl_coef=0),
    )
    found = []
    for batch in (given, given.with_logprobs(None, None)):
        policy_BS = logprobs_BS.clone().requires_grad_()
        loss, sums = policy_loss(policy_BS, batch, params, scale)
        (slope_BS,) = torch.autograd.grad(loss, policy_BS)
        found.append((loss.item(), slope_BS.tolist(), {name: total.item() for name, total in sums.items()}))
    assert found[0] == found[1]
    assert any(slope for row in found[0][1] for slope in row)


@pytest.mark.parametrize("aggregation", AGGREGATIONS.names())
@given(seed=st.integers(0, 1000))
def test_rules_that_only_correct_for_the_sampler_are_the_same_for_plain_grpo(aggregation: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    old_BS = -torch.rand(4, 5, generator=generator) * 3
    logprobs_BS = old_BS + torch.randn(4, 5, generator=generator) * 0.3
    batch = make_batch(
        [[1, 1, 1, 0, 0.0]] * 4, [1.0, -1.0, 0.5, -2.0], [Source.LEARNER] * 4, old=old_BS, sampler=old_BS, ref=old_BS
    )
    scale = LossScale(tokens=12, sequences=4, max_response_length=8)
    losses = []
    for importance in CORRECTIONS:
        params = AlgorithmConfig(importance=importance, aggregation=aggregation)
        losses.append(policy_loss(logprobs_BS, batch, params, scale)[0].item())
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-5)


@pytest.mark.parametrize(
    ("estimator", "expected", "slope"),
    # pi 1/2, ref 1/4: d = log(1/2); derivatives by log pi are 1, -d, 1 - exp(d)
    [("k1", math.log(2), 1.0), ("k2", math.log(2) ** 2 / 2, math.log(2)), ("k3", 0.5 + math.log(2) - 1, 0.5)],
)
def test_kl_estimators(estimator: str, expected: float, slope: float) -> None:
    logprobs = torch.tensor(math.log(0.5), requires_grad=True)
    kl = kl_penalty(logprobs, torch.tensor(math.log(0.25)), KLEstimator(estimator), None)
    assert kl.item() == pytest.approx(expected)
    assert torch.autograd.grad(kl, logprobs)[0].item() == pytest.approx(slope)


@pytest.mark.parametrize("estimator", KLEstimator)
def test_kl_of_the_reference_itself_is_zero(estimator: KLEstimator) -> None:
    logprobs = torch.tensor([-0.3, -7.0])
    assert kl_penalty(logprobs, logprobs, estimator, None).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("estimator", "difference", "value", "slope"),
    [
        # d = log pi_ref - log pi; k1 -d, k2 d^2/2, k3 exp(d) - d - 1, kept from -1 to 1
        ("k1", 0.5, -0.5, 1.0), ("k1", 3.0, -1.0, 0.0), ("k1", -3.0, 1.0, 0.0),
        ("k2", 1.0, 0.5, -1.0), ("k2", 2.0, 1.0, 0.0),
        ("k3", 1.0, math.e - 2, 1 - math.e), ("k3", 1.5, 1.0, 0.0), ("k3", -5.0, 1.0, 0.0),
    ],
)  # fmt: skip
def test_f32_kl_clamp(estimator: str, difference: float, value: float, slope: float) -> None:
    logprobs = torch.tensor(-2.0, requires_grad=True)
    kl = kl_penalty(logprobs, torch.tensor(-2.0 + difference), KLEstimator(estimator), 1.0)
    assert kl.item() == pytest.approx(value, rel=1e-5)
    assert torch.autograd.grad(kl, logprobs)[0].item() == pytest.approx(slope, rel=1e-5)


def test_the_clamp_has_its_key() -> None:
    batch = make_batch([[1.0, 1.0]], [0.0], [Source.LEARNER], ref=torch.tensor([[0.5, 3.0]]))
    params = AlgorithmConfig(kl_coef=1.0, kl_estimator=KLEstimator.k1, kl_clamp=2.0)
    loss, sums = policy_loss(torch.zeros(1, 2), batch, params, LossScale(2, 1, 2))
    assert loss.item() == (-0.5 - 2) / 2
    assert sums["kl_sum"].item() == -2.5


def test_kl_on_explorer_tokens_and_explorer_coefficient() -> None:
    # one learner and one explorer token, ratio 1, A = 1, k1 = log 2
    batch = make_batch(
        [[1.0], [1.0]], [1.0, 1.0], [Source.LEARNER, Source.EXPLORER], old=math.log(0.5), ref=math.log(0.25)
    )
    logprobs_BS = torch.full((2, 1), math.log(0.5))
    scale = LossScale(tokens=2, sequences=2, max_response_length=1)
    params = AlgorithmConfig(kl_coef=0.1, kl_estimator=KLEstimator.k1)

    def loss_of(**changes: Any) -> float:
        return policy_loss(logprobs_BS, batch, replace(params, **changes), scale)[0].item()

    kl = 0.1 * math.log(2)
    assert loss_of() == pytest.approx((-2 + 2 * kl) / 2)
    assert loss_of(kl_on_explorer=False) == pytest.approx((-2 + kl) / 2)
    assert loss_of(explorer_loss_coef=0.25) == pytest.approx((-1.25 + 2 * kl) / 2)
    _, sums = policy_loss(logprobs_BS, batch, replace(params, kl_on_explorer=False), scale)
    assert sums["kl_sum"].item() == pytest.approx(2 * math.log(2))  # the metric covers every response token


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    # token losses: row 0 has 1 token of -1, row 1 has 3 tokens of -2
    [("token_mean", -7 / 4), ("sequence_mean", (-1 - 2) / 2), ("constant", -7 / (2 * 8))],
)
def test_aggregation(aggregation: str, expected: float) -> None:
    batch = make_batch([[0, 1.0, 0, 0], [1.0, 1.0, 1.0, 0]], [1.0, 2.0], [Source.LEARNER] * 2)
    scale = LossScale(tokens=4, sequences=2, max_response_length=8)
    loss, _ = policy_loss(torch.zeros(2, 4), batch, replace(NO_KL, aggregation=aggregation), scale)
    assert loss.item() == pytest.approx(expected)


def test_sums_are_kept_by_source() -> None:
    batch = make_batch(
        [[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]], [1.0, 1.0], [Source.LEARNER, Source.EXPLORER], old=0.0, sampler=-0.5
    )
    logprobs_BS = torch.log(torch.tensor([[1.1, 2.0, 9.0], [3.0, 9.0, 9.0]]))
    _, sums = policy_loss(logprobs_BS, batch, NO_KL, LossScale(tokens=3, sequences=2, max_response_length=3))
    values = {name: value.item() for name, value in sums.items()}
    weight = math.exp(0.5)  # old - sampler is 0.5 on every token
    assert values == pytest.approx(
        {
            "tokens": 3, "tokens_learner": 2, "tokens_explorer": 1,
            "clipped": 2, "clipped_learner": 1, "clipped_explorer": 1,
            "rejected": 0, "rejected_learner": 0, "rejected_explorer": 0,
            "ratio_sum": 6.1, "ratio_sum_learner": 3.1, "ratio_sum_explorer": 3.0,
            "logprob_diff_sum": 1.5, "logprob_diff_sum_learner": 1.0, "logprob_diff_sum_explorer": 0.5,
            "weight_sum": 3 * weight, "weight_sum_learner": 2 * weight, "weight_sum_explorer": weight,
            "weight_square_sum": 3 * math.e, "weight_square_sum_learner": 2 * math.e,
            "weight_square_sum_explorer": math.e,
            "sampler_kl_sum": -1.5, "sampler_kl_sum_learner": -1.0, "sampler_kl_sum_explorer": -0.5,
        }
    )  # fmt: skip


@pytest.mark.parametrize("garbage", [1e30, -1e30, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("importance", IMPORTANCE.names())
@pytest.mark.parametrize("aggregation", AGGREGATIONS.names())
def test_padding_is_nothing(garbage: float, importance: str, aggregation: str) -> None:
    pad = torch.tensor([[0, garbage, 0, garbage]])
    params = AlgorithmConfig(importance=importance, aggregation=aggregation, dual_clip=2.0)
    batch = make_batch([[1, 0, 1, 0.0]], [-1.0], [Source.EXPLORER], old=pad - 0.5, sampler=-pad - 1, ref=pad)
    clean = make_batch([[1, 0, 1, 0.0]], [-1.0], [Source.EXPLORER], old=-0.5, sampler=-1.0, ref=0.0)
    scale = LossScale(tokens=2, sequences=1, max_response_length=4)
    logprobs_BS = (pad - 0.4).requires_grad_()
    loss, sums = policy_loss(logprobs_BS, batch, params, scale)
    expected, expected_sums = policy_loss(torch.full((1, 4), -0.4, requires_grad=True), clean, params, scale)
    assert loss.item() == expected.item()
    assert sums == expected_sums
    (gradient_BS,) = torch.autograd.grad(loss, logprobs_BS)
    assert gradient_BS[0, [1, 3]].tolist() == [0.0, 0.0]
    assert gradient_BS[0, [0, 2]].isfinite().all()


def test_extreme_ratios_stay_finite() -> None:
    batch = make_batch([[1.0, 1.0]], [-1.0], [Source.EXPLORER], old=-500.0, sampler=-500.0, ref=0.0)
    logprobs_BS = torch.tensor([[0.0, -900.0]], requires_grad=True)
    for importance in IMPORTANCE.names():
        loss, _ = policy_loss(logprobs_BS, batch, AlgorithmConfig(importance=importance), ONE)
        assert loss.isfinite()
        assert torch.autograd.grad(loss, logprobs_BS)[0].isfinite().all()


def test_a_mini_batch_without_tokens_has_loss_zero() -> None:
    batch = make_batch([[0.0, 0.0]], [1.0], [Source.LEARNER])
    empty = LossScale(tokens=0, sequences=0, max_response_length=4)
    for aggregation in AGGREGATIONS.names():
        assert policy_loss(torch.zeros(1, 2), batch, replace(NO_KL, aggregation=aggregation), empty)[0].item() == 0


def test_a_rule_reads_the_keys_that_its_fields_name() -> None:
    options = AlgorithmConfig(importance="masked", importance_cap=3.0, importance_floor=0.25, clip_high=0.28)
    loss = PolicyLoss.of(options)
    assert loss.importance == Masked(importance_floor=0.25, importance_cap=3.0)
    assert (loss.clip_low, loss.clip_high) == (0.2, 0.28)


def test_an_unknown_rule_is_one_line() -> None:
    with pytest.raises(UserError, match=r"algorithm\.importance=behaviour is unknown: choose one of learner_old, beh"):
        PolicyLoss.of(AlgorithmConfig(importance="behaviour"))
