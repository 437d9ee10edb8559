"""Log-probabilities and entropy of logits that are cut over tensor-parallel ranks, without gathering them."""

from __future__ import annotations

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy


def target_logprobs(logits_BTV: torch.Tensor, tokens_BT: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log-probability [B, T-1] of each next token under softmax(logits / temperature); V is this rank's part.

    Megatron's cross entropy reduces maximum, predicted logit and sum over the ranks, one scalar a position each.
    """
    scaled_BSV = scale(logits_BTV, temperature)
    losses_BS: torch.Tensor = vocab_parallel_cross_entropy(scaled_BSV, tokens_BT[:, 1:].contiguous())
    return -losses_BS


def scale(logits_BTV: torch.Tensor, temperature: float) -> torch.Tensor:
    """Predicting positions [B, T-1, V] in float32, divided by the temperature; always a copy (it is overwritten)."""
    return logits_BTV[:, :-1].float() / temperature


@torch.no_grad()
def entropy(logits_BTV: torch.Tensor, temperature: float) -> torch.Tensor:
    """Entropy in nats [B, T-1] of softmax(logits / temperature): log Z - sum(p * logit), both summed over the ranks."""
    logits_BSV = scale(logits_BTV, temperature)
    group = parallel_state.get_tensor_model_parallel_group()
    max_BS = logits_BSV.amax(dim=-1)
    torch.distributed.all_reduce(max_BS, op=torch.distributed.ReduceOp.MAX, group=group)
    logits_BSV -= max_BS.unsqueeze(-1)
    weights_BSV = logits_BSV.exp()
    sums_2BS = torch.stack([weights_BSV.sum(-1), torch.linalg.vecdot(weights_BSV, logits_BSV)])
    torch.distributed.all_reduce(sums_2BS, group=group)
    return sums_2BS[0].log() - sums_2BS[1] / sums_2BS[0]
