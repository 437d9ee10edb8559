"""`behavior`: the ratio to whoever sampled the token."""

from __future__ import annotations

from dataclasses import dataclass

from s2l_nemo.algorithm.losses.importance.rule import Importance, RuleInput, plain, ratio


@dataclass(frozen=True)
class Behavior:
    """Ratio pi/pi_sampler of each token (S2L-PO, arXiv 2605.30789, Eq. 2)."""

    def __call__(self, tokens: RuleInput) -> Importance:
        return plain(ratio(tokens.policy_BS, tokens.sampler_BS))
