"""`cispo`: clips the weight of a token, never its gradient."""

from __future__ import annotations

from dataclasses import dataclass

from s2l_nemo.algorithm.losses.importance.rule import Importance, RuleInput, clipped, ratio, reinforce


@dataclass(frozen=True)
class Cispo:
    """sg(clip(r, 1 - low, 1 + high)) A grad log pi, with r = pi/pi_old. No token loses its gradient.

    CISPO (MiniMax-M1, arXiv 2506.13585, Eq. 4 and 5). The paper has no lower bound (`clip_low=null`), tunes the upper
    one, and takes the mean over tokens. Dual clip does not apply: nothing of the surrogate is clipped.

    `ratio_to_sampler` puts the sampler in the place of pi_old. In the paper, pi_old is both.
    """

    clip_low: float | None
    clip_high: float | None
    ratio_to_sampler: bool

    def __call__(self, tokens: RuleInput) -> Importance:
        below_BS = tokens.sampler_BS if self.ratio_to_sampler else tokens.old_BS
        return reinforce(clipped(ratio(tokens.policy_BS, below_BS), self.clip_low, self.clip_high), tokens)
