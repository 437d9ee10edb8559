"""A group of three responses with q = 0.5, 0.2 and, left out, 0.9: E_q[q] = 0.29/0.7."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from s2l_nemo.algorithm.batching import collate, group_expectation
from s2l_nemo.algorithm.losses.aggregation import LossScale
from s2l_nemo.types import Completion, Group, Prompt, Source, TrainBatch
from tests.algorithm.by_hand import NO_KL, policy_loss
from tests.arrays import ids, lps

GEPO = replace(NO_KL, importance="gepo", aggregation="sequence_mean", clip_low=0.9, clip_high=0.9)
EXPECTED = 0.29 / 0.7
SCALE = LossScale(tokens=3, sequences=2, max_response_length=4)


def batch(*, prompts: int = 1, q: tuple[float, ...] = (0.5, 0.1, 0.4, 0.9)) -> TrainBatch:
    """Of each prompt: one token of probability 0.5; two of 0.1 and 0.4; one of 0.9 that is not kept."""
    samples = [(q[:1], Source.EXPLORER, True), (q[1:3], Source.LEARNER, True), (q[3:], Source.LEARNER, False)]
    groups = []
    for prompt_id in range(prompts):
        completions = tuple(
            Completion(
                prompt_id, sample, source, ids([5] * len(probs)), lps(np.log(probs).tolist()), "stop", 0, kept=kept
            )
            for sample, (probs, source, kept) in enumerate(samples)
        )
        groups.append(Group(Prompt(prompt_id, "?", "!", (1, 2)), completions))
    return collate(groups, torch.tensor([[1.0, -2.0, 0.0]] * prompts), pad_token_id=0)


def test_the_expectation_over_a_group() -> None:
    found = batch(prompts=2)
    assert found.group_logprob_B is not None
    assert found.group_logprob_B.exp().tolist() == pytest.approx([EXPECTED] * 6)
    assert found.group_logprob_B.dtype == torch.float32
    many = batch(q=(1e-5, 1e-5, 1e-5, 1.0)).group_logprob_B
    assert many is not None
    assert many.exp().tolist() == pytest.approx([1e-5] * 3)


def test_a_group_without_tokens_has_none() -> None:
    assert group_expectation(torch.full((4, 2), -1.0), torch.zeros(4, 2), 2).tolist() == [0.0] * 4


def test_every_response_is_divided_by_it() -> None:
    # geometric means of pi: 0.4, and sqrt(0.2 x 0.45) = 0.3
    of_batch = batch()
    pi_BS = torch.full(of_batch.mask_BS.shape, 7.0)
    pi_BS[0, 1], pi_BS[1, 1], pi_BS[1, 2] = 0.4, 0.2, 0.45
    logprobs_BS = pi_BS.log().requires_grad_()
    loss, _ = policy_loss(logprobs_BS, of_batch, GEPO, SCALE)
    first, second = 0.4 / EXPECTED, 0.3 / EXPECTED
    assert loss.item() == pytest.approx(-(first * 1 + second * -2) / 2)
    (slope_BS,) = torch.autograd.grad(loss, logprobs_BS)
    assert slope_BS[0].tolist() == pytest.approx([0, -first / 2, 0])
    assert slope_BS[1].tolist() == pytest.approx([0, second / 2, second / 2])
    assert slope_BS[2].tolist() == [0, 0, 0]


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant"])
def test_a_micro_batch_may_cut_a_group(size: int, aggregation: str) -> None:
    of_batch = batch(prompts=2)
    logprobs_BS = torch.linspace(-1.5, -0.5, of_batch.mask_BS.numel()).view(of_batch.mask_BS.shape)
    options, scale = replace(GEPO, aggregation=aggregation), LossScale(6, 4, 4)
    whole, _ = policy_loss(logprobs_BS, of_batch, options, scale)
    parts = [
        policy_loss(part_BS, part, options, scale)[0]
        for part_BS, part in zip(logprobs_BS.split(size), of_batch.split(size), strict=True)
    ]
    torch.testing.assert_close(torch.stack(parts).sum(), whole)


def test_the_whole_group_is_needed() -> None:
    alone = replace(batch(), group_logprob_B=None)
    with pytest.raises(AssertionError, match="not collated from whole groups"):
        policy_loss(torch.zeros(alone.mask_BS.shape), alone, GEPO, SCALE)
