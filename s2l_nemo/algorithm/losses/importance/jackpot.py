"""`jackpot`: rejects tokens that the sampler finds too likely, and reweights the rest.

What is the paper's (Jackpot, arXiv 2602.06107), with p the learner before the step's updates and q the sampler:

- A token is accepted with probability a = min(1, p/(lambda q)), else masked (Eq. 3).
- Accepted tokens follow q' = min(q, p/lambda)/Z. So they weigh p/q' = Z max(lambda, p/q) (Eq. 4 and 5), at most c1,
  which is `importance_cap` (Algorithm 1, line 24).

What is not, because only log-probs of sampled tokens are here:

- Z of a position is a sum over the vocabulary, which the paper estimates from the top k tokens of both models, and
  scales to the accepted share of the batch (Section 4.4). Here Z is the mean of a over the tokens of a response. The
  expectation of a is Z, so it is an estimate of the mean Z of its positions.
- The target is the paper's p_ref, never the policy in the middle of the updates (Section 4.3). So a token is accepted
  or not once a step, and the weight's second factor is 1.
- The explorer stays as it is: no loss of its own, no distillation (Eq. 6 to 8).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from s2l_nemo.algorithm.losses.importance.learner_old import LearnerOld
from s2l_nemo.algorithm.losses.importance.rule import Importance, RuleInput, ratio
from s2l_nemo.splitmix import GAMMA, mixed, shifted


@dataclass(frozen=True)
class Jackpot:
    """Ratio pi/pi_old, weight min(Z max(lambda, pi_old/pi_sampler), cap) on the accepted tokens. See the module."""

    jackpot_lambda: float
    importance_cap: float

    def __call__(self, tokens: RuleInput) -> Importance:
        correction_BS = ratio(tokens.old_BS, tokens.sampler_BS).detach()
        acceptance_BS = (correction_BS / self.jackpot_lambda).clamp(max=1)
        weight_BS = tokens.mean_B1(acceptance_BS) * correction_BS.clamp(min=self.jackpot_lambda)
        return LearnerOld()(tokens)._replace(
            weight_BS=weight_BS.clamp(max=self.importance_cap), accepted_BS=uniforms(tokens) < acceptance_BS
        )


def uniforms(tokens: RuleInput) -> torch.Tensor:
    """A number from 0 to below 1 for each token, float32: a hash of prompt, sample, position and token.

    All ranks of a replica and all passes over a step's rollouts see the same numbers, however rows are cut.
    """
    hash_BS = tokens.token_BS
    for word in (tokens.prompt_id_B1, tokens.sample_id_B1, torch.arange(hash_BS.size(1), device=hash_BS.device)):
        hash_BS = mixed(hash_BS + word + GAMMA)
    return shifted(hash_BS, 40).float() / 2**24
