r"""Derivatives of log-probs along directions in parameter space, all steps of all rollouts in one pass.

Forward mode gives z_t = <u_t, v> for every t at the cost of about three forward passes; a gradient for each step would
cost a backward pass each. The same twice gives v^T H_t delta, the projected Hessian-vector product of Proposition E.4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch.func import grad, jvp

Parameters = dict[str, torch.Tensor]
LogProbs = Callable[[Parameters], torch.Tensor]  # log pi(a_t | s_t), [N, T], 0 after the end of a rollout


def score_projections(log_probs: LogProbs, at: Parameters, direction: Parameters) -> torch.Tensor:
    """<grad log pi(a_t | s_t), direction>, [N, T]: z_t of Eq. 17 if the direction has length 1."""
    return cast(torch.Tensor, jvp(log_probs, (at,), (direction,))[1])


def hessian_projections(log_probs: LogProbs, at: Parameters, direction: Parameters, delta: Parameters) -> torch.Tensor:
    """direction^T H_t delta with H_t = grad^2 log pi(a_t | s_t), [N, T] (Proposition E.4)."""
    return cast(torch.Tensor, jvp(lambda p: score_projections(log_probs, p, direction), (at,), (delta,))[1])


def gradient(log_probs: LogProbs, at: Parameters) -> Parameters:
    """The gradient of the sum over all steps and rollouts, by reverse mode: sum_t u_t (Eq. 15 without A)."""
    return cast(Parameters, grad(lambda p: log_probs(p).sum())(at))


def gaussian(like: Mapping[str, torch.Tensor], generator: torch.Generator) -> Parameters:
    """Independent standard normal numbers. Averaged over such g, <u, g>^2 is |u|^2.

    They are drawn on the CPU, so that a seed means the same on every device.
    """
    return {
        name: torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(tensor)
        for name, tensor in like.items()
    }


def relative_noise(like: Mapping[str, torch.Tensor], scale: float, generator: torch.Generator) -> Parameters:
    """delta with mean 0: normal numbers times `scale` times the root mean square of each tensor."""
    drawn = gaussian(like, generator)
    return {name: drawn[name] * (scale * tensor.square().mean().sqrt()) for name, tensor in like.items()}


def length(vector: Mapping[str, torch.Tensor]) -> float:
    """The Euclidean norm over all tensors."""
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in vector.values()))


def unit(vector: Parameters) -> Parameters:
    """The vector divided by its length. Raises ValueError if that is 0."""
    size = length(vector)
    if size == 0:
        raise ValueError("a vector of length 0 has no direction")
    return {name: tensor / size for name, tensor in vector.items()}


def logit_scores_TV(logits_TV: torch.Tensor, tokens_T: torch.Tensor) -> torch.Tensor:
    """e_a - pi(. | s_t) (Remark E.7): the gradient of log pi(a_t | s_t) with respect to a shift of the logits.

    The shift is the same at every step, so that scores of different steps can be added up. With logits of its own for
    each state, as "logit parameters" could also be read, u_t and u_s are orthogonal and Eq. 16 has no cross terms.
    """
    scores = -logits_TV.double().softmax(dim=-1)
    scores[torch.arange(len(tokens_T), device=scores.device), tokens_T] += 1.0
    return scores
