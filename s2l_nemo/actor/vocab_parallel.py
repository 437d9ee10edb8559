"""Log-probs and entropy of targets, from hidden states and an output layer that is cut over tensor-parallel ranks.

Logits of M targets and the whole vocabulary would be the largest tensor of a step: 4,096 tokens of Qwen3 take 2.5 GB in
float32. So they exist for a chunk of targets at a time, in the forward pass and again in the backward pass. What the
forward pass has of its last chunk stays: of few targets nothing is computed twice.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import parallel_state

CHUNK_ELEMENTS = 2**25  # logits of a chunk on one rank: 128 MiB in float32, and the same for their softmax


def target_logprobs(
    hidden_MH: torch.Tensor,
    weight_VH: torch.Tensor,
    target_M: torch.Tensor,
    temperature: float,
    *,
    entropy_gradient: bool = False,
) -> torch.Tensor:
    """[2, M], float32: log-probs of the targets under softmax(hidden weight^T / temperature), and entropy in nats.

    V is this rank's part of the vocabulary. Every rank gets the values for the whole of it. Entropy has no gradient
    unless `entropy_gradient`, which costs a few more passes over the logits. The gradient of `hidden_MH` is this rank's
    part: the caller sums it over the tensor-parallel ranks.
    """
    logprobs_M, entropy_M = _TargetLogprobs.apply(hidden_MH, weight_VH, target_M, temperature, entropy_gradient)  # type: ignore[no-untyped-call]
    return torch.stack([logprobs_M, entropy_M])


class _TargetLogprobs(torch.autograd.Function):
    """With logits x and p = softmax(x): log z = max x - log max p, and entropy = log z - sum p x."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_MH: torch.Tensor,
        weight_VH: torch.Tensor,
        target_M: torch.Tensor,
        temperature: float,
        entropy_gradient: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        local_M, is_here_M = _local(target_M, len(weight_VH))
        own_3M = torch.empty(3, len(target_M), device=hidden_MH.device)  # log z, sum p x, and the target's logit
        chunks = _chunks(len(target_M), len(weight_VH))
        buffers_2CV = torch.empty(2, chunks[0].stop, len(weight_VH), device=hidden_MH.device)
        for rows in chunks:
            logits_CV, probs_CV = _softmax(hidden_MH[rows], weight_VH, temperature, buffers_2CV)
            own_3M[0, rows] = logits_CV.amax(1) - probs_CV.amax(1).log()
            own_3M[1, rows] = torch.linalg.vecdot(probs_CV, logits_CV)
            own_3M[2, rows] = logits_CV.gather(1, local_M[rows, None])[:, 0] * is_here_M[rows]
        log_z_M, mean_M, logit_M = _over_ranks(own_3M)
        ctx.save_for_backward(hidden_MH, weight_VH, target_M, (own_3M[0] - log_z_M).exp(), mean_M)
        ctx.temperature, ctx.entropy_gradient = temperature, entropy_gradient
        ctx.buffers_2CV = buffers_2CV if any(ctx.needs_input_grad) else None
        entropy_M = log_z_M - mean_M
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropy_M)
        return logit_M - log_z_M, entropy_M

    @staticmethod
    def backward(
        ctx: Any, grad_M: torch.Tensor, grad_entropy_M: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, None, None, None]:
        hidden_MH, weight_VH, target_M, share_M, mean_M = ctx.saved_tensors  # the share of p that this rank's part has
        grad_hidden_MH, grad_weight_VH = torch.empty_like(hidden_MH), torch.zeros_like(weight_VH)
        local_M, is_here_M = _local(target_M, len(weight_VH))
        buffers_2CV, ctx.buffers_2CV = ctx.buffers_2CV, None
        *others, last = _chunks(len(target_M), len(weight_VH))
        for rows in [last, *others]:
            if rows is last:
                logits_CV, probs_CV = buffers_2CV[:, : len(target_M[rows])]
            else:
                logits_CV, probs_CV = _softmax(hidden_MH[rows], weight_VH, ctx.temperature, buffers_2CV)
            if _tp_size() > 1:
                probs_CV *= share_M[rows, None]
            scale_C1 = (grad_M[rows] / -ctx.temperature)[:, None]
            # d logprob / d logit = [target] - p. In float32: of a likely target the difference is what counts.
            taken_C1 = -is_here_M[rows, None].float()
            if ctx.entropy_gradient:
                # d entropy / d logit = -p (x - sum p x). Both slopes in one product, so each row has its own factors.
                factor_CV = logits_CV.sub_(mean_M[rows, None]).mul_(grad_entropy_M[rows, None]).add_(grad_M[rows, None])
                probs_CV.mul_(factor_CV)
                taken_C1 *= grad_M[rows, None]
                scale_C1 = torch.full_like(scale_C1, -1 / ctx.temperature)
            slope_CV = probs_CV.scatter_add_(1, local_M[rows, None], taken_C1).to(hidden_MH.dtype)
            grad_hidden_MH[rows] = (slope_CV @ weight_VH) * scale_C1
            scaled_CH = (hidden_MH[rows] * scale_C1).to(hidden_MH.dtype)
            grad_weight_VH.addmm_(slope_CV.t(), scaled_CH)  # in place: the product would be as large as the weight
        return grad_hidden_MH, grad_weight_VH, None, None, None


def _chunks(targets: int, vocabulary: int) -> list[slice]:
    """At least one, in their order. The first is the longest."""
    size = max(1, CHUNK_ELEMENTS // vocabulary)
    return [slice(start, min(start + size, targets)) for start in range(0, max(targets, 1), size)]


def _softmax(
    hidden_CH: torch.Tensor, weight_VH: torch.Tensor, temperature: float, buffers_2CV: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and their softmax over this rank's part, [C, V] each, in float32.

    They lie in the buffers, which all chunks share: touching new memory takes as long as a pass over the logits.
    """
    logits_CV, probs_CV = buffers_2CV[:, : len(hidden_CH)]
    if weight_VH.dtype == torch.float32:
        torch.addmm(logits_CV, hidden_CH, weight_VH.t(), beta=0, alpha=1 / temperature, out=logits_CV)
    else:
        logits_CV.copy_(hidden_CH @ weight_VH.t()).mul_(1 / temperature)
    return logits_CV, torch.softmax(logits_CV, 1, out=probs_CV)


def _local(target_M: torch.Tensor, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The targets in this rank's part of the vocabulary, 0 for those that are not, and which are."""
    local_M = target_M - parallel_state.get_tensor_model_parallel_rank() * vocabulary
    is_here_M = (local_M >= 0) & (local_M < vocabulary)
    return torch.where(is_here_M, local_M, 0), is_here_M


def _over_ranks(own_3M: torch.Tensor) -> torch.Tensor:
    """[3, M]: log z, sum p x and the target's logit of the whole vocabulary, from those of each rank's part."""
    if _tp_size() == 1:
        return own_3M
    group = parallel_state.get_tensor_model_parallel_group()
    max_M = own_3M[0].clone()
    torch.distributed.all_reduce(max_M, op=torch.distributed.ReduceOp.MAX, group=group)
    z_M = (own_3M[0] - max_M).exp()
    sums_3M = torch.stack([z_M, z_M * own_3M[1], own_3M[2]])
    torch.distributed.all_reduce(sums_3M, group=group)
    return torch.stack([max_M + sums_3M[0].log(), sums_3M[1] / sums_3M[0], sums_3M[2]])


def _tp_size() -> int:
    return int(parallel_state.get_tensor_model_parallel_world_size())
