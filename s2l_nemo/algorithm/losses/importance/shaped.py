"""`shaped`: LUFFY's shape of the ratio to the explorer."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from s2l_nemo.algorithm.losses.importance.learner_old import LearnerOld
from s2l_nemo.algorithm.losses.importance.rule import Importance, RuleInput, ratio


@dataclass(frozen=True)
class Shaped:
    """f(x) = x/(x + gamma) of x = pi/pi_sampler on explorer tokens, never clipped; pi/pi_old on the others.

    The shape is that of LUFFY (arXiv 2504.14945), the ratio is not: LUFFY takes the probability of the
    guide as 1, so that x is pi itself. See `luffy`. The factor of grad log pi is gamma x / (x + gamma)^2. With gamma
    0.1 it is 0.083 for every token on which the two models agree (x = 1), sure or not. LUFFY gives 0.083 at pi = 1,
    0.139 at pi = 0.5 and 0.25 at pi = 0.1, and so learns most from tokens that the learner finds unlikely.
    """

    shaping_gamma: float

    def __call__(self, tokens: RuleInput) -> Importance:
        plain = LearnerOld()(tokens)
        sampled_BS = ratio(tokens.policy_BS, tokens.sampler_BS)
        shaped_BS = sampled_BS / (sampled_BS + self.shaping_gamma)
        return plain._replace(
            ratio_BS=torch.where(tokens.explorer_BS, shaped_BS, plain.ratio_BS), unclipped_BS=tokens.explorer_BS
        )
