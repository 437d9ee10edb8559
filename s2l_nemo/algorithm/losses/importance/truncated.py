"""`truncated`: truncated importance sampling, token by token."""

from __future__ import annotations

from dataclasses import dataclass

from s2l_nemo.algorithm.losses.importance.learner_old import LearnerOld
from s2l_nemo.algorithm.losses.importance.rule import Importance, RuleInput, ratio


@dataclass(frozen=True)
class Truncated:
    """Ratio pi/pi_old, weight min(pi_old/pi_sampler, cap) (TIS, https://fengyao.notion.site/off-policy-rl)."""

    importance_cap: float

    def __call__(self, tokens: RuleInput) -> Importance:
        correction_BS = ratio(tokens.old_BS, tokens.sampler_BS).detach()
        return LearnerOld()(tokens)._replace(weight_BS=correction_BS.clamp(max=self.importance_cap))
