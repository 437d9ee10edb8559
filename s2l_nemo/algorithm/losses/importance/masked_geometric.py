"""`masked_geometric`: whole responses by the geometric mean of their correction."""

from __future__ import annotations

from dataclasses import dataclass

from s2l_nemo.algorithm.losses.importance.learner_old import LearnerOld
from s2l_nemo.algorithm.losses.importance.rule import Importance, RuleInput, bounded_exp


@dataclass(frozen=True)
class MaskedGeometric:
    """Ratio pi/pi_old, weight 1. A response with (pi_old(y)/pi_sampler(y))^(1/|y|) outside floor..cap is rejected.

    The geometric mask of Liu et al., "When speed kills stability" (https://richardli.xyz/rl-collapse), as in verl. It
    does not depend on the length. For one model in two engines the band is narrow, as 0.99 to 1.01.
    """

    importance_floor: float
    importance_cap: float

    def __call__(self, tokens: RuleInput) -> Importance:
        mean_B1 = bounded_exp(tokens.mean_B1(tokens.old_BS - tokens.sampler_BS)).detach()
        accepted_B1 = (mean_B1 >= self.importance_floor) & (mean_B1 <= self.importance_cap)
        return LearnerOld()(tokens)._replace(accepted_BS=accepted_B1.expand_as(tokens.response_BS))
