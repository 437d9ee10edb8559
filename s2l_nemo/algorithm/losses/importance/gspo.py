"""`gspo`: one ratio for a whole response."""

from __future__ import annotations

from dataclasses import dataclass

from s2l_nemo.algorithm.losses.importance.rule import Importance, RuleInput, bounded_exp, plain


@dataclass(frozen=True)
class Gspo:
    """Ratio s = (pi(y)/pi_old(y))^(1/|y|), the geometric mean over the response's tokens, for each of them.

    GSPO (arXiv 2507.18071, Eq. 5 and 7). A response is clipped as a whole. The gradient of s is s times the mean of
    grad log pi over the tokens. The paper takes the mean over responses: `aggregation=sequence_mean`. With another
    aggregation a response counts by its length. Its bounds are narrow: clip_low 3e-4, clip_high 4e-4 (Section 5.1).

    `ratio_to_sampler` puts the sampler in the place of pi_old. In the paper, pi_old is both.
    """

    ratio_to_sampler: bool

    def __call__(self, tokens: RuleInput) -> Importance:
        below_BS = tokens.sampler_BS if self.ratio_to_sampler else tokens.old_BS
        ratio_B1 = bounded_exp(tokens.mean_B1(tokens.policy_BS - below_BS))
        return plain(ratio_B1.expand_as(tokens.policy_BS))
