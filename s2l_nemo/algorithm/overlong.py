"""A soft penalty for responses that come near to the length limit (DAPO)."""

from __future__ import annotations

import torch


def overlong_penalty(
    length_PG: torch.Tensor, *, max_response_length: int, buffer: int | None, penalty: float
) -> torch.Tensor:
    """What is added to the rewards: 0 or less, float64, for responses of these lengths in tokens.

    DAPO (arXiv 2503.14476, Eq. 13), times `penalty`: 0 up to max_response_length - buffer tokens, then falling
    linearly, and -penalty at max_response_length and beyond. `buffer` None is no penalty.

    Raises ValueError if `buffer` is not from 1 to `max_response_length`.
    """
    if buffer is None:
        return torch.zeros(length_PG.shape, dtype=torch.float64, device=length_PG.device)
    if not 1 <= buffer <= max_response_length:
        raise ValueError(f"a buffer of {buffer} tokens is not from 1 to the limit of {max_response_length}")
    over_PG = length_PG.double() - (max_response_length - buffer)
    return -penalty * (over_PG / buffer).clamp(0, 1)
