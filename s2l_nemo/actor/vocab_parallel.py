"""Log-probs and entropy of targets, from hidden states and an output layer that is cut over tensor-parallel ranks.

Logits of M targets and the whole vocabulary would be the largest tensor of a step: 4,096 tokens of Qwen3 take 2.5 GB in
float32. So they exist for a chunk of targets at a time, in the forward pass and again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from megatron.core import parallel_state

CHUNK_ELEMENTS = 2**26  # logits of a chunk on one rank: 256 MiB in float32


def target_logprobs(
    hidden_MH: torch.Tensor, weight_VH: torch.Tensor, target_M: torch.Tensor, temperature: float
) -> torch.Tensor:
    """[2, M], float32: log-probs of the targets under softmax(hidden weight^T / temperature), and entropy in nats.

    V is this rank's part of the vocabulary. Every rank gets the values for the whole of it. Entropy has no gradient.
    The gradient of `hidden_MH` is this rank's part: the caller sums it over the tensor-parallel ranks.
    """
    logprobs_M, entropy_M = _TargetLogprobs.apply(hidden_MH, weight_VH, target_M, temperature)  # type: ignore[no-untyped-call]
    return torch.stack([logprobs_M, entropy_M])


class _TargetLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_MH: torch.Tensor, weight_VH: torch.Tensor, target_M: torch.Tensor, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs_M, entropy_M, log_z_M = (torch.empty(len(target_M), device=hidden_MH.device) for _ in range(3))
        logits = _buffer(target_M, weight_VH)
        for rows in _chunks(len(target_M), len(weight_VH)):
            logits_CV = _logits(hidden_MH[rows], weight_VH, temperature, logits)
            max_C = logits_CV.amax(1)
            _over_ranks(max_C, torch.distributed.ReduceOp.MAX)
            logits_CV -= max_C[:, None]
            local_C, is_here_C = _local(target_M[rows], len(weight_VH))
            target_C = logits_CV.gather(1, local_C[:, None])[:, 0] * is_here_C
            weights_CV = logits_CV.exp_()
            sum_C = weights_CV.sum(1)
            # entr(x) = -x log x, in place: w log w is w times the logit
            weighted_C = torch.special.entr(weights_CV, out=weights_CV).sum(1).neg_()
            sums_3C = torch.stack([sum_C, weighted_C, target_C])
            _over_ranks(sums_3C, torch.distributed.ReduceOp.SUM)
            log_sum_C = sums_3C[0].log()
            logprobs_M[rows] = sums_3C[2] - log_sum_C
            entropy_M[rows] = log_sum_C - sums_3C[1] / sums_3C[0]
            log_z_M[rows] = max_C + log_sum_C
        ctx.save_for_backward(hidden_MH, weight_VH, target_M, log_z_M)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy_M)
        return logprobs_M, entropy_M

    @staticmethod
    def backward(ctx: Any, grad_M: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        hidden_MH, weight_VH, target_M, log_z_M = ctx.saved_tensors
        grad_hidden_MH, grad_weight_VH = torch.empty_like(hidden_MH), torch.zeros_like(weight_VH)
        logits = _buffer(target_M, weight_VH)
        for rows in _chunks(len(target_M), len(weight_VH)):
            logits_CV = _logits(hidden_MH[rows], weight_VH, ctx.temperature, logits)
            # d logprob / d logit = [target] - softmax
            slope_CV = logits_CV.sub_(log_z_M[rows, None]).exp_().neg_()
            local_C, is_here_C = _local(target_M[rows], len(weight_VH))
            slope_CV.scatter_add_(1, local_C[:, None], is_here_C[:, None].to(slope_CV.dtype))
            slope_CV = slope_CV.mul_(grad_M[rows, None] / ctx.temperature).to(hidden_MH.dtype)
            grad_hidden_MH[rows] = slope_CV @ weight_VH
            grad_weight_VH.addmm_(
                slope_CV.t(), hidden_MH[rows]
            )  # in place: the product would be as large as the weight
        return grad_hidden_MH, grad_weight_VH, None, None


def _chunks(targets: int, vocabulary: int) -> Iterator[slice]:
    size = max(1, CHUNK_ELEMENTS // vocabulary)
    for start in range(0, targets, size):
        yield slice(start, start + size)


def _buffer(target_M: torch.Tensor, weight_VH: torch.Tensor) -> torch.Tensor:
    """For the logits of a chunk. All chunks share it: touching new memory takes as long as a pass over the logits."""
    vocabulary = len(weight_VH)
    rows = min(len(target_M), max(1, CHUNK_ELEMENTS // vocabulary))
    return torch.empty(rows, vocabulary, dtype=torch.float32, device=weight_VH.device)


def _logits(hidden_CH: torch.Tensor, weight_VH: torch.Tensor, temperature: float, buffer: torch.Tensor) -> torch.Tensor:
    """In float32, in the buffer."""
    logits_CV = buffer[: len(hidden_CH)]
    if weight_VH.dtype == torch.float32:
        torch.mm(hidden_CH, weight_VH.t(), out=logits_CV)
    else:
        logits_CV.copy_(hidden_CH @ weight_VH.t())
    return logits_CV.div_(temperature)


def _local(target_C: torch.Tensor, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The targets in this rank's part of the vocabulary, 0 for those that are not, and which are."""
    local_C = target_C - parallel_state.get_tensor_model_parallel_rank() * vocabulary
    is_here_C = (local_C >= 0) & (local_C < vocabulary)
    return torch.where(is_here_C, local_C, 0), is_here_C


def _over_ranks(tensor: torch.Tensor, op: Any) -> None:
    if parallel_state.get_tensor_model_parallel_world_size() > 1:
        torch.distributed.all_reduce(tensor, op=op, group=parallel_state.get_tensor_model_parallel_group())
