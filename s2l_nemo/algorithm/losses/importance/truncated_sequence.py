"""`truncated_sequence`: truncated importance sampling, one weight for a response."""

from __future__ import annotations

from dataclasses import dataclass

from s2l_nemo.algorithm.losses.importance.learner_old import LearnerOld
from s2l_nemo.algorithm.losses.importance.rule import Importance, RuleInput, bounded_exp


@dataclass(frozen=True)
class TruncatedSequence:
    """Ratio pi/pi_old of each token, weight min(pi_old(y)/pi_sampler(y), cap) of the whole response.

    Sequence-level TIS: Liu et al., "When speed kills stability" (https://richardli.xyz/rl-collapse), as in verl. The
    product of many ratios is far from 1 where two models differ: most explorer responses then weigh almost nothing.
    """

    importance_cap: float

    def __call__(self, tokens: RuleInput) -> Importance:
        correction_B1 = bounded_exp(tokens.sum_B1(tokens.old_BS - tokens.sampler_BS)).detach()
        weight_BS = correction_B1.clamp(max=self.importance_cap).expand_as(tokens.old_BS)
        return LearnerOld()(tokens)._replace(weight_BS=weight_BS)
