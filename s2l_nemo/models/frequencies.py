"""Angles of rotary positions, which Megatron computes for plain positions only."""

from __future__ import annotations

import math

import torch
from typing_extensions import assert_never

from s2l_nemo.models.rope import Llama3Scaling, RopeScaling, YarnScaling


def inverse_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> torch.Tensor:
    """[head_dim / 2] in float32: the angle by which each pair of dimensions turns from one position to the next.

    The operations and their order are those of transformers 4.51 (`modeling_rope_utils.py`): an angle is multiplied
    by the position, and so is what rounding makes of it.
    """
    turn_D = theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    match scaling:
        case None:
            return 1.0 / turn_D
        case Llama3Scaling():
            return _llama3(1.0 / turn_D, scaling)
        case YarnScaling():
            kept_D = _kept_by_yarn(head_dim, theta, scaling)
            return 1.0 / (scaling.factor * turn_D) * (1 - kept_D) + 1.0 / turn_D * kept_D
        case _:
            assert_never(scaling)


def _llama3(plain_D: torch.Tensor, scaling: Llama3Scaling) -> torch.Tensor:
    turns_D = scaling.original_max_positions / (2 * math.pi / plain_D)  # in the first training's length
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept_D = ((turns_D - low) / (high - low)).clamp(0, 1)
    return (1 - kept_D) * plain_D / scaling.factor + kept_D * plain_D


def _kept_by_yarn(head_dim: int, theta: float, scaling: YarnScaling) -> torch.Tensor:
    """[head_dim / 2]: 1 for a pair that keeps its speed, 0 for one that turns `factor` times slower."""

    def pair_that_turns(times: float) -> float:
        turns = scaling.original_max_positions / (times * 2 * math.pi)
        return head_dim * math.log(turns) / (2 * math.log(theta))

    low = max(math.floor(pair_that_turns(scaling.beta_fast)), 0)
    high = min(math.ceil(pair_that_turns(scaling.beta_slow)), head_dim - 1)
    width = high - low if high != low else 0.001  # one pair is the border
    return 1 - ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
