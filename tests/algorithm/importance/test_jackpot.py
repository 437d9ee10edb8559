"""Acceptance, weights of the accepted, and the numbers that decide."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from s2l_nemo.algorithm.losses.aggregation import LossScale
from s2l_nemo.algorithm.losses.importance.jackpot import Jackpot, uniforms
from s2l_nemo.algorithm.losses.importance.rule import RuleInput
from s2l_nemo.types import Source
from tests.algorithm.by_hand import NO_KL, make_batch, one_token, policy_loss

JACKPOT = replace(NO_KL, importance="jackpot")


def rule_input(correction_BS: torch.Tensor, **changes: torch.Tensor) -> RuleInput:
    """Tokens with this pi_old/pi_sampler. pi is pi_old."""
    B, S = correction_BS.shape
    old_BS, yes_BS = torch.full((B, S), -9.0), torch.ones(B, S, dtype=torch.bool)
    ids_B1 = torch.arange(B)[:, None]
    return RuleInput(
        old_BS, old_BS, old_BS - correction_BS.log(), yes_BS, yes_BS, torch.ones(B, 1),
        token_BS=torch.arange(B * S).view(B, S) % 7, prompt_id_B1=ids_B1 // 4, sample_id_B1=ids_B1 % 4,
    )._replace(**changes)  # fmt: skip


@pytest.mark.parametrize(
    ("factor", "weights"),
    [
        # corrections 0.25 and 4. lambda 1: acceptances 0.25 and 1, Z = 0.625; weights Z and 4 Z
        (1.0, [0.625, 2.5]),
        # lambda 2: 0.125 and 1, Z = 0.5625; 2 Z and 4 Z
        (2.0, [1.125, 2.25]),
        # lambda 0.25: both are accepted; Z = 1
        (0.25, [0.25, 4.0]),
        # lambda 8: 1/32 and 1/2, Z = 17/64; 8 Z
        (8.0, [2.125, 2.125]),
    ],
)
def test_weights_by_hand(factor: float, weights: list[float]) -> None:
    tokens = rule_input(torch.tensor([[0.25, 4.0, 50.0]]), response_BS=torch.tensor([[True, True, False]]))
    found = Jackpot(jackpot_lambda=factor, importance_cap=9.0)(tokens)
    assert found.weight_BS[0, :2].tolist() == pytest.approx(weights, rel=1e-5)
    capped = Jackpot(jackpot_lambda=factor, importance_cap=1.0)(tokens)
    assert capped.weight_BS[0, :2].tolist() == pytest.approx([min(weight, 1.0) for weight in weights], rel=1e-5)


@pytest.mark.parametrize("correction", [0.1, 0.5, 3.0])
@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_tokens_are_accepted_as_often_as_they_should(correction: float, factor: float) -> None:
    tokens = rule_input(torch.full((64, 256), correction))
    found = Jackpot(jackpot_lambda=factor, importance_cap=9.0)(tokens)
    acceptance = min(1.0, correction / factor)
    deviation = math.sqrt(acceptance * (1 - acceptance) / found.accepted_BS.numel())
    assert found.accepted_BS.float().mean().item() == pytest.approx(acceptance, abs=4 * deviation + 1e-9)
    # Z = a here, so on average an accepted token and its weight are Z p/q: importance sampling times Z.
    mean = (found.accepted_BS * found.weight_BS).mean().item()
    assert mean == pytest.approx(acceptance * correction, rel=4 * deviation / acceptance + 1e-5)


def test_the_numbers_are_uniform_and_their_own_for_every_token() -> None:
    found_BS = uniforms(rule_input(torch.ones(64, 256)))
    assert found_BS.dtype == torch.float32
    assert 0 <= found_BS.min() < 0.001
    assert 0.999 < found_BS.max() < 1
    counts = torch.histc(found_BS, bins=8, min=0, max=1)
    assert (counts - found_BS.numel() / 8).abs().max() < 4 * math.sqrt(found_BS.numel() / 8)
    assert len(found_BS.unique()) > 0.99 * found_BS.numel()
    for left, right in ((found_BS[:, :-1], found_BS[:, 1:]), (found_BS[:-1], found_BS[1:])):
        correlation = torch.corrcoef(torch.stack([left.flatten(), right.flatten()]))[0, 1]
        assert correlation.abs() < 4 / math.sqrt(left.numel())


def test_the_numbers_depend_on_each_part_and_on_nothing_else() -> None:
    tokens = rule_input(torch.ones(2, 3))
    found_BS = uniforms(tokens)
    assert torch.equal(uniforms(rule_input(torch.full((2, 3), 5.0))), found_BS)
    assert torch.equal(uniforms(rule_input(torch.ones(2, 3)[:, :2], token_BS=tokens.token_BS[:, :2])), found_BS[:, :2])
    for name in ("token_BS", "prompt_id_B1", "sample_id_B1"):
        other_BS = uniforms(tokens._replace(**{name: getattr(tokens, name) + 1}))
        assert (other_BS != found_BS).all()


def test_a_rejected_token_gives_nothing() -> None:
    corrections_BS = torch.full((1, 8), 0.5)
    batch = make_batch([[1.0] * 8], [1.0], [Source.EXPLORER], old=-1.0, sampler=(-1 - corrections_BS.log()))
    logprobs_BS = torch.full((1, 8), -1.0 + math.log(1.1)).requires_grad_()
    loss, sums = policy_loss(logprobs_BS, batch, JACKPOT, LossScale(8, 1, 8))
    (slope_BS,) = torch.autograd.grad(loss, logprobs_BS)
    accepted = 8 - int(sums["rejected"].item())
    assert 0 < accepted < 8
    assert (slope_BS != 0).sum() == accepted
    # a = Z = 0.5, so the weight of each is 0.5 max(1, 0.5)
    assert slope_BS.min().item() == pytest.approx(-1.1 * 0.5 / 8)
    assert loss.item() == pytest.approx(-1.1 * 0.5 * accepted / 8)


def test_it_reads_its_keys() -> None:
    found = one_token(replace(JACKPOT, importance_cap=3.0), pi=0.4, advantage=1, old=0.4, sampler=0.1)
    assert found[0] == pytest.approx(-3.0, rel=1e-5)  # p/q is 4
    found = one_token(replace(JACKPOT, jackpot_lambda=1e9), pi=0.4, advantage=1, old=0.4, sampler=0.1)
    assert (found[0], found[2]["rejected"]) == (0.0, 1)
