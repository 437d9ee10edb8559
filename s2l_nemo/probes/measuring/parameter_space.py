"""Scores with respect to all parameters, by projections: z_t = <u_t, v> of every step in one pass.

Along normal directions g the mean square of <u, g> is |u|^2. So a few of them, new ones for each prompt, give squared
norms and summed covariances without bias; intervals over prompts hold their noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from s2l_nemo.probes.alignment import gamma_TT
from s2l_nemo.probes.covariance import LagSums, covariance_TT, lag_sums, largest_share_of_bound
from s2l_nemo.probes.growth import drift_T
from s2l_nemo.probes.intervals import Floats
from s2l_nemo.probes.measuring.facts import Along, GammaFacts, Sampled, SpaceFacts, Work
from s2l_nemo.probes.measuring.policy import Tokens
from s2l_nemo.probes.scores import (
    LogProbs,
    Parameters,
    gaussian,
    gradient,
    hessian_projections,
    length,
    relative_noise,
    score_projections,
    unit,
)


def reference_direction(work: Work) -> Parameters:
    """The score of the reference trace, as a direction. It depends on no rollout, so v is fixed as Eq. 17 asks."""
    with work.learner.differentiable():
        return unit(gradient(work.learner.log_probs(work.prompt, [work.reference]), work.learner.parameters))


def parameter_facts(work: Work, sampled: Sampled, reference: Parameters) -> SpaceFacts:
    """Projections of all rollouts on the reference direction and on normal ones."""
    generator = torch.Generator().manual_seed(work.seed)
    directions = (gaussian(work.learner.parameters, generator) for _ in range(work.directions))
    count = len(sampled.responses)
    z_NT = _projected(work, sampled.responses, reference)
    units = [z_NT]
    squares, walks, drifts, matrices = [], [], [], []
    for direction in directions:
        g_NT = _projected(work, sampled.responses, direction)
        units.append(g_NT / length(direction))
        sums_NT = g_NT.cumsum(axis=1)
        squares.append((sums_NT**2).mean(axis=0))
        walks.append((g_NT**2).mean(axis=0).cumsum())
        drifts.append(drift_T(squares[-1], sums_NT.mean(axis=0) ** 2, count))
        matrices.append(covariance_TT(g_NT))
    largest = float(np.abs(units).max())
    return SpaceFacts(
        np.mean(squares, axis=0),
        np.mean(walks, axis=0),
        np.mean(drifts, axis=0),
        {Along.every: lag_sums(np.mean(matrices, axis=0)), Along.reference: lag_sums(covariance_TT(z_NT))},
        largest,
        max(largest_share_of_bound(one_NT, sampled.matched_NT, largest) for one_NT in units),
    )


def gamma_facts(work: Work, responses: Sequence[Tokens], reference: Parameters, draws: int, scale: float) -> GammaFacts:
    """gamma over `draws` perturbations, along the reference direction, and along a normal one for each draw."""
    generator = torch.Generator().manual_seed(work.seed + 1)
    at = work.learner.parameters
    of_reference, of_normal = [], []
    for _ in range(draws):
        delta, direction = relative_noise(at, scale, generator), gaussian(at, generator)
        of_reference.append(_twice_projected(work, responses, reference, delta))
        of_normal.append(_twice_projected(work, responses, direction, delta))
    matrix_TT = gamma_TT(np.stack(of_reference))
    along: dict[Along, LagSums] = {
        Along.every: lag_sums(gamma_TT(np.stack(of_normal))),
        Along.reference: lag_sums(matrix_TT),
    }
    return GammaFacts(matrix_TT, along)


def _projected(work: Work, responses: Sequence[Tokens], direction: Parameters) -> Floats:
    at = work.learner.parameters
    return _each_chunk(work, responses, lambda log_probs: score_projections(log_probs, at, direction))


def _twice_projected(work: Work, responses: Sequence[Tokens], direction: Parameters, delta: Parameters) -> Floats:
    at = work.learner.parameters
    return _each_chunk(work, responses, lambda log_probs: hessian_projections(log_probs, at, direction, delta))


def _each_chunk(work: Work, responses: Sequence[Tokens], derivative: Callable[[LogProbs], torch.Tensor]) -> Floats:
    """The derivative for as many rollouts at once as the policy takes: float64 [N, T], 0 after the end of a rollout."""
    found = np.zeros((len(responses), work.steps))
    start = 0
    with work.learner.differentiable():
        for chunk in work.learner.chunks(responses):
            values_NT = derivative(work.learner.log_probs(work.prompt, chunk)).double().cpu().numpy()
            found[start : start + len(chunk), : values_NT.shape[1]] = values_NT
            start += len(chunk)
    return found
