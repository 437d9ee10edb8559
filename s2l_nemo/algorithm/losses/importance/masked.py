"""`masked`: importance sampling inside a band, token by token."""

from __future__ import annotations

from dataclasses import dataclass

from s2l_nemo.algorithm.losses.importance.learner_old import LearnerOld
from s2l_nemo.algorithm.losses.importance.rule import Importance, RuleInput, ratio


@dataclass(frozen=True)
class Masked:
    """Ratio pi/pi_old, weight pi_old/pi_sampler. Tokens whose weight is outside floor..cap are rejected."""

    importance_floor: float
    importance_cap: float

    def __call__(self, tokens: RuleInput) -> Importance:
        correction_BS = ratio(tokens.old_BS, tokens.sampler_BS).detach()
        accepted_BS = (correction_BS >= self.importance_floor) & (correction_BS <= self.importance_cap)
        return LearnerOld()(tokens)._replace(weight_BS=correction_BS, accepted_BS=accepted_BS)
