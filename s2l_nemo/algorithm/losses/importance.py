"""Importance rules: which ratio of a token carries the gradient, and by what the surrogate is weighted.

A rule is a dataclass. Its fields are the keys of `algorithm` that it reads, by their names. To add one, write a class
here and name it in `options.IMPORTANCE`; from outside, call `IMPORTANCE.register(name, MyRule)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch

# exp(20) is 5e8: far outside every trust region, and still finite in float32 when squared or summed.
MAX_LOG_RATIO = 20.0


class TokenLogprobs(NamedTuple):
    """Log-probs (float32) of the response tokens; 0 at all other positions."""

    policy_BS: torch.Tensor  # of the policy that learns; carries the gradient
    old_BS: torch.Tensor  # of the learner before this step's updates
    sampler_BS: torch.Tensor  # of the engine that sampled the token
    explorer_BS: torch.Tensor  # bool: the explorer sampled it


class Importance(NamedTuple):
    """What a rule says of each token."""

    ratio_BS: torch.Tensor  # carries the gradient
    weight_BS: torch.Tensor  # detached factor of the surrogate
    unclipped_BS: torch.Tensor  # bool: the ratio of this token must not be clipped


class ImportanceRule(Protocol):
    """Made once a run, called once a micro-batch."""

    def __init__(self, **options: Any) -> None: ...

    def __call__(self, tokens: TokenLogprobs) -> Importance: ...


@dataclass(frozen=True)
class LearnerOld:
    """Ratio pi/pi_old, whoever sampled the token (the released code)."""

    def __call__(self, tokens: TokenLogprobs) -> Importance:
        return _unweighted(ratio(tokens.policy_BS, tokens.old_BS), tokens)


@dataclass(frozen=True)
class Behavior:
    """Ratio pi/pi_sampler (Eq. 2 of the paper)."""

    def __call__(self, tokens: TokenLogprobs) -> Importance:
        return _unweighted(ratio(tokens.policy_BS, tokens.sampler_BS), tokens)


@dataclass(frozen=True)
class Truncated:
    """Ratio pi/pi_old, weight min(pi_old/pi_sampler, cap): truncated importance sampling."""

    importance_cap: float

    def __call__(self, tokens: TokenLogprobs) -> Importance:
        plain = LearnerOld()(tokens)
        correction_BS = ratio(tokens.old_BS, tokens.sampler_BS).detach()
        return plain._replace(weight_BS=correction_BS.clamp(max=self.importance_cap))


@dataclass(frozen=True)
class Masked:
    """Ratio pi/pi_old, weight pi_old/pi_sampler inside floor..cap and 0 outside."""

    importance_floor: float
    importance_cap: float

    def __call__(self, tokens: TokenLogprobs) -> Importance:
        plain = LearnerOld()(tokens)
        correction_BS = ratio(tokens.old_BS, tokens.sampler_BS).detach()
        inside_BS = (correction_BS >= self.importance_floor) & (correction_BS <= self.importance_cap)
        return plain._replace(weight_BS=correction_BS * inside_BS)


@dataclass(frozen=True)
class Shaped:
    """f(x) = x/(x + gamma) of x = pi/pi_sampler on explorer tokens, never clipped; pi/pi_old on the others.

    LUFFY, arXiv 2504.14945.
    """

    shaping_gamma: float

    def __call__(self, tokens: TokenLogprobs) -> Importance:
        plain = LearnerOld()(tokens)
        sampled_BS = ratio(tokens.policy_BS, tokens.sampler_BS)
        shaped_BS = sampled_BS / (sampled_BS + self.shaping_gamma)
        return plain._replace(
            ratio_BS=torch.where(tokens.explorer_BS, shaped_BS, plain.ratio_BS), unclipped_BS=tokens.explorer_BS
        )


def ratio(numerator_BS: torch.Tensor, denominator_BS: torch.Tensor) -> torch.Tensor:
    """exp of the difference of two log-probs, bounded so that it stays finite."""
    return (numerator_BS - denominator_BS).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def _unweighted(ratio_BS: torch.Tensor, tokens: TokenLogprobs) -> Importance:
    return Importance(ratio_BS, torch.ones_like(ratio_BS), torch.zeros_like(tokens.explorer_BS))
