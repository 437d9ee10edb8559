"""`gepo`: one denominator for a whole group."""

from __future__ import annotations

from dataclasses import dataclass

from s2l_nemo.algorithm.losses.importance.rule import Importance, RuleInput, bounded_exp, plain


@dataclass(frozen=True)
class Gepo:
    """Ratio pi(y) / E_q[q(y)] for each token of a response: q is who sampled, E_q the expectation over the group.

    GEPO (arXiv 2508.17850, Eq. 2 and 3). E_q[q] = sum q^2 / sum q over the group's responses, so that no single
    unlikely response makes a ratio large. As in the authors' code, pi(y) and q(y) are geometric means over the tokens
    of a response, it is clipped as a whole, and the paper's mean is over responses (`aggregation=sequence_mean`). Of a
    mixed group, q is the explorer's for its responses and the learner engine's for the others.

    The ratio is biased: on policy it is 1 only if all responses of the group are equally likely.
    """

    def __call__(self, tokens: RuleInput) -> Importance:
        assert tokens.group_logprob_B1 is not None, "the batch was not collated from whole groups"
        ratio_B1 = bounded_exp(tokens.mean_B1(tokens.policy_BS) - tokens.group_logprob_B1)
        return plain(ratio_B1.expand_as(tokens.policy_BS))
