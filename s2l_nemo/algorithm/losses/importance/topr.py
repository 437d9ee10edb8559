"""`topr`: tapered off-policy REINFORCE."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from s2l_nemo.algorithm.losses.importance.rule import Importance, RuleInput, reinforce


@dataclass(frozen=True)
class Topr:
    """w A grad log pi: w = 1 if A >= 0, else min(pi(y)/pi_sampler(y), 1) of the whole response, detached.

    TOPR (arXiv 2503.14286, Section 3). Good responses are learned as in supervised training, however unlikely they are.
    The push away from a bad one ends as it becomes unlikely. Nothing is clipped, by dual clip neither.

    The paper parts responses by the sign of the reward, less a constant baseline. Here it is the advantage's.
    """

    def __call__(self, tokens: RuleInput) -> Importance:
        log_ratio_B1 = tokens.sum_B1(tokens.policy_BS - tokens.sampler_BS)
        weight_B1 = torch.where(tokens.advantages_B1 < 0, log_ratio_B1.clamp(max=0).exp(), 1.0)
        return reinforce(weight_B1.expand_as(tokens.policy_BS), tokens)
