"""Small batches whose losses can be worked out by hand."""

from __future__ import annotations

import math

import torch

from s2l_nemo.algorithm.batching import group_expectation
from s2l_nemo.algorithm.losses.aggregation import LossScale
from s2l_nemo.algorithm.losses.policy import PolicyLoss
from s2l_nemo.algorithm.options import AlgorithmConfig
from s2l_nemo.types import Source, TrainBatch

NO_KL = AlgorithmConfig(kl_coef=0.0)
ONE = LossScale(tokens=1, sequences=1, max_response_length=1)


def policy_loss(
    logprobs_BS: torch.Tensor, batch: TrainBatch, options: AlgorithmConfig, scale: LossScale
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return PolicyLoss.of(options)(logprobs_BS, batch, scale)


def make_batch(
    mask: list[list[float]],
    advantages: list[float],
    sources: list[Source],
    old: torch.Tensor | float = 0.0,
    sampler: torch.Tensor | float = 0.0,
    ref: torch.Tensor | float | None = None,
) -> TrainBatch:
    mask_BS = torch.tensor(mask)
    B, S = mask_BS.shape

    def full(values: torch.Tensor | float) -> torch.Tensor:
        return torch.as_tensor(values).expand(B, S).clone()

    return TrainBatch(
        tokens_BT=torch.zeros(B, S + 1, dtype=torch.long),
        mask_BS=mask_BS,
        sampler_logprobs_BS=full(sampler),
        advantages_B=torch.tensor(advantages),
        source_B=torch.tensor(sources),
        prompt_length_B=torch.ones(B, dtype=torch.long),
        length_B=torch.full((B,), S + 1),
        prompt_id_B=torch.zeros(B, dtype=torch.long),
        sample_id_B=torch.arange(B),
        old_logprobs_BS=full(old),
        ref_logprobs_BS=None if ref is None else full(ref),
        group_logprob_B=group_expectation(full(sampler), mask_BS, B),
    )


def one_token(
    params: AlgorithmConfig, *, pi: float, advantage: float, old: float = 1.0, sampler: float = 1.0, source: int = 0
) -> tuple[float, float, dict[str, float]]:
    """Loss, its derivative by log pi and the metrics for one response token with these probabilities."""
    batch = make_batch([[1.0]], [advantage], [Source(source)], old=math.log(old), sampler=math.log(sampler))
    logprobs_BS = torch.tensor([[math.log(pi)]], requires_grad=True)
    loss, sums = policy_loss(logprobs_BS, batch, params, ONE)
    (gradient_BS,) = torch.autograd.grad(loss, logprobs_BS)
    return loss.item(), gradient_BS.item(), {name: value.item() for name, value in sums.items()}
