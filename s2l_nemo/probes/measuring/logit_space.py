"""Scores with respect to the logits. No derivative is taken and no direction missed, at any size of model."""

from __future__ import annotations

import numpy as np
import torch

from s2l_nemo.probes.covariance import (
    LOGIT_BOUND,
    covariance_TT,
    inner_covariance_TT,
    lag_sums,
    largest_share_of_bound,
)
from s2l_nemo.probes.growth import drift_T
from s2l_nemo.probes.measuring.facts import Along, Sampled, SpaceFacts, Work
from s2l_nemo.probes.scores import logit_scores_TV


def logit_facts(work: Work, sampled: Sampled) -> SpaceFacts:
    """Exact for these rollouts, which are read one after another."""
    units_VK = _directions(work)
    count, steps, vocabulary = len(sampled.responses), work.steps, len(units_VK)
    square_T, walk_T, products_TT = np.zeros(steps), np.zeros(steps), np.zeros((steps, steps))
    mean_TV = torch.zeros(steps, vocabulary, dtype=torch.float64)
    z_KNT = np.zeros((units_VK.size(1), count, steps))
    every = work.learner.logits(work.prompt, sampled.responses)
    for n, (logits_TV, response) in enumerate(zip(every, sampled.responses, strict=True)):
        u_TV = logit_scores_TV(logits_TV, torch.tensor(response, device=logits_TV.device)).cpu()
        z_KNT[:, n, : len(response)] = (u_TV @ units_VK).T.numpy()
        u_TV = torch.nn.functional.pad(u_TV, (0, 0, 0, steps - len(response)))
        square_T += u_TV.cumsum(dim=0).square().sum(dim=1).numpy() / count
        walk_T += u_TV.square().sum(dim=1).cumsum(dim=0).numpy() / count
        products_TT += (u_TV @ u_TV.T).numpy() / count
        mean_TV += u_TV / count
    return SpaceFacts(
        square_T,
        walk_T,
        drift_T(square_T, mean_TV.cumsum(dim=0).square().sum(dim=1).numpy(), count),
        {
            Along.every: lag_sums(inner_covariance_TT(products_TT, mean_TV.numpy(), count)),
            Along.reference: lag_sums(covariance_TT(z_KNT[0])),
        },
        float(np.abs(z_KNT).max()),
        max(largest_share_of_bound(z_NT, sampled.matched_NT, LOGIT_BOUND) for z_NT in z_KNT),
    )


def _directions(work: Work) -> torch.Tensor:
    """Unit directions in columns: that of the reference's score, then random ones."""
    (logits_TV,) = work.learner.logits(work.prompt, [work.reference])
    score_TV = logit_scores_TV(logits_TV, torch.tensor(work.reference, device=logits_TV.device)).cpu()
    generator = torch.Generator().manual_seed(work.seed)
    random_VK = torch.randn(score_TV.size(1), work.directions, generator=generator, dtype=torch.float64)
    columns_VK = torch.cat([score_TV.sum(dim=0)[:, None], random_VK], dim=1)
    return columns_VK.div(columns_VK.norm(dim=0))
