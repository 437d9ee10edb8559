"""`learner_old`: the ratio to the learner before the step's updates, whoever sampled the token."""

from __future__ import annotations

from dataclasses import dataclass

from s2l_nemo.algorithm.losses.importance.rule import Importance, RuleInput, plain, ratio


@dataclass(frozen=True)
class LearnerOld:
    """Ratio pi/pi_old of each token (PPO, arXiv 1707.06347; S2L-PO's released code)."""

    def __call__(self, tokens: RuleInput) -> Importance:
        return plain(ratio(tokens.policy_BS, tokens.old_BS))
