"""How the losses of single tokens become the loss of a mini-batch.

Sums are divided by counts of the whole mini-batch. So micro-batches and data-parallel ranks add up to its loss,
however it was divided.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LossScale:
    """Counts of the whole mini-batch, over all data-parallel ranks and micro-batches."""

    tokens: int  # response tokens
    sequences: int  # sequences with at least one response token
    max_response_length: int  # tokens; the constant of Dr.GRPO


# (losses_BS, 0 outside the response; mask_BS; scale) -> this micro-batch's share of the loss, a scalar
Aggregation = Callable[[torch.Tensor, torch.Tensor, LossScale], torch.Tensor]


def token_mean(losses_BS: torch.Tensor, _mask_BS: torch.Tensor, scale: LossScale) -> torch.Tensor:
    """The mean over all response tokens of the mini-batch."""
    # A mini-batch in which every answer was cut and masked has no tokens: its loss is 0, not nan.
    return losses_BS.sum() / max(scale.tokens, 1)


def sequence_mean(losses_BS: torch.Tensor, mask_BS: torch.Tensor, scale: LossScale) -> torch.Tensor:
    """The mean over sequences of the mean within each."""
    return (losses_BS.sum(1) / mask_BS.sum(1).clamp(min=1)).sum() / max(scale.sequences, 1)


def constant(losses_BS: torch.Tensor, _mask_BS: torch.Tensor, scale: LossScale) -> torch.Tensor:
    """The sum over sequences times the response limit (Dr.GRPO, arXiv 2503.20783)."""
    return losses_BS.sum() / (max(scale.sequences, 1) * scale.max_response_length)
