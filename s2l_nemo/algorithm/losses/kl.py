"""Estimates of the KL divergence of the policy from the reference policy, token by token."""

from __future__ import annotations

import torch
from typing_extensions import assert_never

from s2l_nemo.algorithm.losses.importance.rule import ratio
from s2l_nemo.algorithm.options import KLEstimator


def kl_penalty(
    logprobs_BS: torch.Tensor, ref_BS: torch.Tensor, estimator: KLEstimator, clamp: float | None
) -> torch.Tensor:
    """Per-token estimate of KL(pi || pi_ref) in nats.

    With d = log pi_ref - log pi: k1 = -d, k2 = d^2 / 2, k3 = exp(d) - d - 1. k3 is the low-variance one
    of the paper (Appendix C); http://joschu.net/blog/kl-approx.html.

    With `clamp`, a value outside of -clamp..clamp counts as the nearer end and has no gradient. verl clamps k3 at 10.
    """
    kl_BS = _estimate(logprobs_BS, ref_BS, estimator)
    return kl_BS if clamp is None else kl_BS.clamp(-clamp, clamp)


def _estimate(logprobs_BS: torch.Tensor, ref_BS: torch.Tensor, estimator: KLEstimator) -> torch.Tensor:
    difference_BS = ref_BS - logprobs_BS
    match estimator:
        case KLEstimator.k1:
            return -difference_BS
        case KLEstimator.k2:
            return difference_BS.square() / 2
        case KLEstimator.k3:
            return ratio(ref_BS, logprobs_BS) - difference_BS - 1
        case _:
            assert_never(estimator)
