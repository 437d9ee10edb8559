"""The probes against exact enumeration, to three digits. Expected values come from sums over all 81 responses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from s2l_nemo.probes.alignment import gamma_TT, lower_bound_TT
from s2l_nemo.probes.covariance import (
    LOGIT_BOUND,
    bound_T,
    covariance_TT,
    inner_covariance_TT,
    lag_sums,
    largest_share_of_bound,
)
from s2l_nemo.probes.growth import clock_slope, drift_T, log_slope
from s2l_nemo.probes.prefix import decay_bound_T, match_probability_T, matched_NT
from s2l_nemo.probes.scores import Parameters, gaussian, gradient, hessian_projections, score_projections, unit
from tests.probes.tabular import RESPONSES, STEPS, Floats, World, flat, log_probs_of, parameters

COUNT = 200_000
WEIGHTS = parameters(0)
WORLDS = {
    "baseline": World(WEIGHTS, WEIGHTS),
    "high temperature": World(WEIGHTS, WEIGHTS, temperature=1.5),
    "other policy": World(WEIGHTS, parameters(1)),
}
PAIRS = np.triu_indices(STEPS, k=1)


def direction(seed: int = 5) -> Parameters:
    return unit({name: one.double() for name, one in gaussian(WEIGHTS, torch.Generator().manual_seed(seed)).items()})


@pytest.fixture(params=list(WORLDS))
def world(request: pytest.FixtureRequest) -> World:
    return WORLDS[request.param]


def test_prefix_match(world: World) -> None:
    exact_T = world.mean(world.matched_NT.astype(float))
    assert match_probability_T(world.deviation_T) == pytest.approx(exact_T, abs=1e-12)
    found_NT = matched_NT(RESPONSES.tolist(), world.reference, STEPS)
    assert found_NT[world.rows(COUNT)].mean(axis=0) == pytest.approx(exact_T, abs=5e-4)
    assert (exact_T <= decay_bound_T(world.deviation_T) + 1e-12).all()


def test_projections_are_those_of_reverse_mode() -> None:
    world, v, delta = WORLDS["baseline"], direction(5), direction(6)
    z_NT = score_projections(log_probs_of(0), WEIGHTS, v).numpy()
    h_NT = hessian_projections(log_probs_of(0), WEIGHTS, v, delta).numpy()
    v_D, delta_D = flat(v).numpy(), flat(delta).numpy()
    assert z_NT == pytest.approx(world.scores_NTD @ v_D, abs=1e-12)
    assert h_NT == pytest.approx(np.einsum("ntij,i,j->nt", world.hessians_NTDD, v_D, delta_D), abs=1e-12)
    whole = flat(gradient(log_probs_of(0, RESPONSES[7:8]), WEIGHTS)).numpy()
    assert whole == pytest.approx(world.scores_NTD[7].sum(axis=0), abs=1e-12)


def test_covariance_of_a_projection(world: World) -> None:
    z_NT = world.scores_NTD @ flat(direction()).numpy()
    exact_TT = world.covariance_TT(z_NT)
    assert covariance_TT(z_NT[world.rows(COUNT)]) == pytest.approx(exact_TT, abs=3e-4)
    largest, diverged_T = np.abs(z_NT).max(), 1 - world.mean(world.matched_NT.astype(float))
    assert (np.abs(exact_TT)[PAIRS] <= bound_T(diverged_T, largest)[PAIRS[0]]).all()


def test_covariance_along_all_axes_of_the_logits(world: World) -> None:
    u_NTV = world.logit_scores_NTV
    exact_TT = sum(world.covariance_TT(u_NTV[:, :, axis]) for axis in range(u_NTV.shape[2]))
    rows = u_NTV[world.rows(COUNT)]
    found_TT = inner_covariance_TT(np.einsum("ntv,nsv->ts", rows, rows) / len(rows), rows.mean(axis=0), len(rows))
    assert found_TT == pytest.approx(exact_TT, abs=3e-4)
    diverged_T = 1 - world.mean(world.matched_NT.astype(float))
    assert (np.abs(exact_TT)[PAIRS] <= bound_T(diverged_T, LOGIT_BOUND)[PAIRS[0]]).all()  # see docs/probes.md
    assert np.linalg.norm(u_NTV, axis=2).max() <= LOGIT_BOUND


@pytest.mark.parametrize("space", ["logits", "parameters"])
def test_growth(world: World, space: str) -> None:
    u_NTD = world.logit_scores_NTV if space == "logits" else world.scores_NTD
    sums_NTD = u_NTD.cumsum(axis=1)
    squares_NT = (sums_NTD**2).sum(axis=2)
    exact_T = world.mean(squares_NT)
    rows = world.rows(COUNT)
    means_T = squares_NT[rows].mean(axis=0)
    assert means_T == pytest.approx(exact_T, rel=5e-4)
    lengths = list(range(1, STEPS + 1))
    expected, _ = np.polyfit(np.log(lengths), np.log(exact_T), 1)
    assert log_slope(lengths)(means_T) == pytest.approx(expected, abs=5e-4)
    walk_NT = (u_NTD**2).sum(axis=2).cumsum(axis=1)
    expected, _ = np.polyfit(np.log(world.mean(walk_NT)), np.log(exact_T), 1)
    assert clock_slope(np.concatenate([means_T, walk_NT[rows].mean(axis=0)])) == pytest.approx(expected, abs=5e-4)
    drift = drift_T(means_T, (sums_NTD[rows].mean(axis=0) ** 2).sum(axis=1), len(rows))
    assert drift == pytest.approx((world.mean(sums_NTD) ** 2).sum(axis=1), abs=1e-3)


def test_gaussian_directions_give_the_squared_norm_of_sums() -> None:
    world, generator = WORLDS["high temperature"], torch.Generator().manual_seed(0)
    exact_T = world.mean((world.scores_NTD.cumsum(axis=1) ** 2).sum(axis=2))
    directions_KD = torch.stack([flat(gaussian(WEIGHTS, generator)) for _ in range(3_000)]).numpy()
    found_T = np.mean([world.mean((world.scores_NTD @ g_D).cumsum(axis=1) ** 2) for g_D in directions_KD], axis=0)
    assert found_T == pytest.approx(exact_T, rel=0.1)


def test_gamma() -> None:
    world, v_D = WORLDS["baseline"], flat(direction()).numpy()
    draws = [direction(seed) for seed in (11, 12, 13)]
    deltas_DD = np.stack([flat(one).numpy() for one in draws])
    sigma_DD = deltas_DD.T @ deltas_DD / len(draws)  # of delta = one of +-draws, each equally likely
    vh_NTD = np.einsum("ntij,i->ntj", world.hessians_NTDD, v_D)
    exact_TT = world.mean(np.einsum("nti,ij,nsj->nts", vh_NTD, sigma_DD, vh_NTD))
    h_DNT = np.stack([hessian_projections(log_probs_of(0), WEIGHTS, direction(), delta).numpy() for delta in draws])
    found_TT = gamma_TT(h_DNT[:, world.rows(COUNT)])
    assert found_TT == pytest.approx(exact_TT, abs=3e-4)
    diverged_T = 1 - world.mean(world.matched_NT.astype(float))
    assert lower_bound_TT(found_TT, diverged_T, 2.0)[1, 3] == pytest.approx(
        exact_TT[1, 3] - 5 * 4 * diverged_T[1], abs=5e-4
    )


def perturbed(weights: Parameters, delta: Parameters, scale: float) -> Parameters:
    return {name: weights[name] + scale * delta[name] for name in weights}


def covariance_over_signs(z_NT_of: dict[int, Floats], probability_N_of: dict[int, Floats]) -> Floats:
    """Over responses and over delta = +d or -d, each equally likely."""
    rows = np.concatenate([z_NT_of[1], z_NT_of[-1]])
    weights = np.concatenate([probability_N_of[1], probability_N_of[-1]]) / 2
    centred = rows - np.tensordot(weights, rows, axes=1)
    result: Floats = np.einsum("n,nt,ns->ts", weights, centred, centred)
    return result


def test_gamma_is_what_a_perturbation_adds_along_trajectories_of_the_unperturbed_policy() -> None:
    """The step of the proof of Proposition E.4 that holds: trajectories do not depend on delta."""
    world, v, d = WORLDS["baseline"], direction(), direction(21)
    z_NT = world.scores_NTD @ flat(v).numpy()
    h_NT = hessian_projections(log_probs_of(0), WEIGHTS, v, d).numpy()
    both = covariance_over_signs(
        {sign: z_NT + sign * h_NT for sign in (1, -1)}, dict.fromkeys((1, -1), world.probability_N)
    )
    assert both == pytest.approx(world.covariance_TT(z_NT) + gamma_TT_of(world, h_NT), abs=1e-12)


def gamma_TT_of(world: World, h_NT: Floats) -> Floats:
    return world.mean(h_NT[:, :, None] * h_NT[:, None, :])


def test_scores_of_a_policy_along_its_own_trajectories_have_no_covariance() -> None:
    """E[u_s | prefix] = 0. So Eq. 18 is an equality at the learner's own temperature 1, for any prefix divergence, and
    also for any policy theta + delta whose own scores are taken along its own trajectories."""
    for weights in (WEIGHTS, parameters(1)):
        world = World(weights, weights)
        z_NT = world.scores_NTD @ flat(direction()).numpy()
        assert world.covariance_TT(z_NT)[PAIRS] == pytest.approx(0, abs=1e-12)
        sums = world.mean((world.scores_NTD.cumsum(axis=1) ** 2).sum(axis=2))
        assert sums == pytest.approx(world.mean((world.scores_NTD**2).sum(axis=2)).cumsum(), abs=1e-12)
    hot = WORLDS["high temperature"]
    assert np.abs(hot.covariance_TT(hot.scores_NTD @ flat(direction()).numpy())[PAIRS]).max() > 1e-3


def test_what_proposition_e4_neglects_is_of_second_order() -> None:
    """With trajectories of theta + delta, the first-order scores' covariance misses Cov + gamma by O(delta^2), not
    O(delta^3): half of delta leaves a quarter of the gap. gamma itself is of that order."""
    v, d = direction(), direction(21)
    base = WORLDS["baseline"]
    z_NT = base.scores_NTD @ flat(v).numpy()
    h_NT = hessian_projections(log_probs_of(0), WEIGHTS, v, d).numpy()
    gaps = []
    for scale in (0.02, 0.01):
        moved = {sign: World(WEIGHTS, perturbed(WEIGHTS, d, sign * scale)) for sign in (1, -1)}
        found_TT = covariance_over_signs(
            {sign: z_NT + sign * scale * h_NT for sign in moved},
            {sign: one.probability_N for sign, one in moved.items()},
        )
        gaps.append(found_TT - base.covariance_TT(z_NT) - scale**2 * gamma_TT_of(base, h_NT))
    assert np.abs(gaps[0])[PAIRS].max() > 0.02**2 * 1e-3
    assert gaps[0][PAIRS] / gaps[1][PAIRS] == pytest.approx(4, rel=0.1)


def test_the_bound_holds_for_every_set_of_rollouts(world: World) -> None:
    z_NT = world.scores_NTD @ flat(direction()).numpy()
    rng = np.random.default_rng(0)
    for _ in range(50):
        rows = rng.choice(
            len(RESPONSES), size=int(rng.integers(2, 12)), p=world.probability_N / world.probability_N.sum()
        )
        share = largest_share_of_bound(z_NT[rows], world.matched_NT[rows], np.abs(z_NT[rows]).max())
        assert 0 <= share <= 1


def test_sums_by_lag_add_up_to_the_variance_of_the_sum(world: World) -> None:
    z_NT = world.scores_NTD @ flat(direction()).numpy()
    sums = lag_sums(world.covariance_TT(z_NT))
    total = z_NT.sum(axis=1)
    assert sums.first_B == [1, 2]
    assert sums.diagonal + sums.sums_B.sum() == pytest.approx(world.mean(total**2) - world.mean(total) ** 2)
