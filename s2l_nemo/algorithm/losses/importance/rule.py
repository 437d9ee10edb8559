"""What every importance rule gets and gives.

A rule says of each token which ratio carries the gradient, by what the surrogate is weighted, and whether the token
counts at all. It is a dataclass. Its fields are the keys of `algorithm` that it reads, by their names. Each rule is a
file of this folder, named in `options.IMPORTANCE`. From outside, call `IMPORTANCE.register(name, MyRule)`, or give
`algorithm.importance=package.module:MyRule`.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch

# exp(20) is 5e8: far outside every trust region, and still finite in float32 when squared or summed.
MAX_LOG_RATIO = 20.0


class RuleInput(NamedTuple):
    """The responses of a micro-batch. Log-probs are float32, and 0 at all positions without a response token."""

    policy_BS: torch.Tensor  # log-probs of the policy that learns; they carry the gradient
    old_BS: torch.Tensor  # of the learner before this step's updates
    sampler_BS: torch.Tensor  # of the engine that sampled the token
    explorer_BS: torch.Tensor  # bool: the explorer sampled it
    response_BS: torch.Tensor  # bool: a response token
    advantages_B1: torch.Tensor  # float32
    token_BS: torch.Tensor  # int64, the token whose log-probs these are
    prompt_id_B1: torch.Tensor  # int64
    sample_id_B1: torch.Tensor  # int64
    group_logprob_B1: torch.Tensor | None = None  # float32, of the row's whole group; see batching.group_expectation

    def on_response(self, values_BS: torch.Tensor) -> torch.Tensor:
        """The values as float32, and 0 outside of the responses, where they may be anything."""
        return torch.where(self.response_BS, values_BS.float(), 0.0)

    def mean_B1(self, values_BS: torch.Tensor) -> torch.Tensor:
        """The mean over the tokens of each response; 0 for a row that has none."""
        return self.sum_B1(values_BS) / self.response_BS.sum(1, keepdim=True).clamp(min=1)

    def sum_B1(self, values_BS: torch.Tensor) -> torch.Tensor:
        """The sum over the tokens of each response."""
        return self.on_response(values_BS).sum(1, keepdim=True)


class Importance(NamedTuple):
    """What a rule says of each token. Nothing outside of the responses is looked at."""

    ratio_BS: torch.Tensor  # carries the gradient
    weight_BS: torch.Tensor  # detached factor of the surrogate
    unclipped_BS: torch.Tensor  # bool: the ratio of this token must not be clipped
    accepted_BS: torch.Tensor  # bool: the others give no gradient. A function of old and sampler log-probs alone


class ImportanceRule(Protocol):
    """Made once a run, called once a micro-batch. Every row must stand for itself: micro-batches are cut anywhere."""

    def __init__(self, **options: Any) -> None: ...

    def __call__(self, tokens: RuleInput) -> Importance: ...


def ratio(numerator_BS: torch.Tensor, denominator_BS: torch.Tensor) -> torch.Tensor:
    """exp of the difference of two log-probs, bounded so that it stays finite."""
    return bounded_exp(numerator_BS - denominator_BS)


def bounded_exp(difference_BS: torch.Tensor) -> torch.Tensor:
    """exp, with the exponent between -MAX_LOG_RATIO and MAX_LOG_RATIO."""
    return difference_BS.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def clipped(ratio_BS: torch.Tensor, low: float | None, high: float | None) -> torch.Tensor:
    """The ratio, no less than 1 - low and no more than 1 + high; None is no bound."""
    if low is not None:
        ratio_BS = ratio_BS.clamp(min=1 - low)
    return ratio_BS if high is None else ratio_BS.clamp(max=1 + high)


def plain(ratio_BS: torch.Tensor) -> Importance:
    """Of this ratio, clipped, with weight 1 and every token accepted."""
    no_BS = torch.zeros_like(ratio_BS, dtype=torch.bool)
    return Importance(ratio_BS, torch.ones_like(ratio_BS), no_BS, ~no_BS)


def reinforce(weight_BS: torch.Tensor, tokens: RuleInput) -> Importance:
    """A surrogate whose gradient is weight A grad log pi. The weight is detached and nothing is clipped.

    Its value is weight A. Papers write weight A log pi, which has the same gradient.
    """
    ratio_BS = weight_BS.detach() * (tokens.policy_BS - tokens.policy_BS.detach()).exp()
    return plain(ratio_BS)._replace(unclipped_BS=torch.ones_like(tokens.response_BS))
