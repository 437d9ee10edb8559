"""`luffy`: policy shaping with a guide whose probability counts as 1."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from s2l_nemo.algorithm.losses.importance.learner_old import LearnerOld
from s2l_nemo.algorithm.losses.importance.rule import Importance, RuleInput


@dataclass(frozen=True)
class Luffy:
    """f(pi) = pi/(pi + gamma) on explorer tokens, never clipped; pi/pi_old, clipped, on the learner's.

    LUFFY (arXiv 2504.14945, policy shaping): pi is the learner's own probability of the token, and pi_phi of the
    guide is 1, so its log-probs are not read. gamma is 0.1 there. The factor of grad log pi is
    gamma pi / (pi + gamma)^2, which is largest at pi = gamma. The released scripts take the
    clip off the learner's tokens too: set `clip_low` and `clip_high` to null.
    """

    shaping_gamma: float

    def __call__(self, tokens: RuleInput) -> Importance:
        plain = LearnerOld()(tokens)
        pi_BS = tokens.policy_BS.exp()
        shaped_BS = pi_BS / (pi_BS + self.shaping_gamma)
        return plain._replace(
            ratio_BS=torch.where(tokens.explorer_BS, shaped_BS, plain.ratio_BS), unclipped_BS=tokens.explorer_BS
        )
