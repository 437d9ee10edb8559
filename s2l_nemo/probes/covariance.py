r"""The cross-step covariance of score projections and its bound (Eq. 17, Proposition E.2, Corollary E.3).

z_t = <u_t, v> with u_t = grad log pi_theta(a_t | s_t) and |v| = 1. The claim is that |Cov(z_t, z_s | q)| is at most
5 B^2 Pr(M_t = 0) for t < s and |z_t| <= B.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from s2l_nemo.probes.intervals import Floats

# |e_a - pi| <= sqrt(2): (1 - pi_a)^2 + sum of the other pi_b^2 is at most 2 (1 - pi_a)^2. Remark E.7 has sqrt(V).
LOGIT_BOUND = 2.0**0.5
CONSTANT = 5.0  # of Proposition E.2


def covariance_TT(z_NT: ArrayLike) -> Floats:
    """Cov(z_t, z_s | q) of N rollouts of one prompt, unbiased (divided by N - 1). Raises ValueError if N is 1."""
    z = np.asarray(z_NT, dtype=np.float64)
    return inner_covariance_TT(z.T @ z / len(z), z.mean(axis=0)[:, None], len(z))


def inner_covariance_TT(mean_products_TT: ArrayLike, mean_TV: ArrayLike, rollouts: int) -> Floats:
    """E<u_t, u_s> - <E u_t, E u_s>, unbiased: the covariances along any V orthonormal directions, added up.

    `mean_products_TT` is the mean of <u_t, u_s> over N rollouts, `mean_TV` the mean of u_t. Raises ValueError for one
    rollout.
    """
    if rollouts < 2:
        raise ValueError(f"a covariance needs at least 2 rollouts, got {rollouts}")
    mean = np.asarray(mean_TV, dtype=np.float64)
    plain = np.asarray(mean_products_TT, dtype=np.float64) - mean @ mean.T
    result: Floats = plain * (rollouts / (rollouts - 1))
    return result


def bound_T(diverged_T: ArrayLike, score_bound: float) -> Floats:
    """5 B^2 Pr(M_t = 0) (Corollary E.3), for each earlier step t."""
    result: Floats = CONSTANT * score_bound**2 * np.asarray(diverged_T, dtype=np.float64)
    return result


def largest_share_of_bound(z_NT: ArrayLike, matched_NT: ArrayLike, score_bound: float) -> float:
    """The largest |Cov(z_t, z_s)| / (5 B^2 Pr(M_t = 0)) over t < s. At most 1 for every set of rollouts.

    Both sides are those of the N rollouts themselves (covariance divided by N), for which the corollary holds exactly.
    A pair whose bound is 0 has covariance 0 and is left out. 0 if no pair is left.
    """
    z, diverged_T = np.asarray(z_NT, dtype=np.float64), 1.0 - np.asarray(matched_NT, dtype=np.float64).mean(axis=0)
    size = len(z)
    later_TT = np.triu(np.abs(covariance_TT(z)) * (size - 1) / size, k=1)
    some = diverged_T > 0
    shares = later_TT[some] / bound_T(diverged_T, score_bound)[some, None]
    return float(shares.max(initial=0.0))


class LagSums(NamedTuple):
    """Sums over pairs of steps t < s, by their distance s - t, and over the diagonal."""

    first_B: list[int]  # the smallest distance of each bin: 1, 2, 4, 8, ...
    sums_B: Floats  # twice the sum over the pairs of each bin
    diagonal: float


def lag_sums(matrix_TT: ArrayLike) -> LagSums:
    """Adds up a symmetric matrix by lag. All sums together are the variance of the sum of z_t, if it is a covariance.

    So `sums_B / diagonal` says what each distance adds to a random walk, whose sums are 0.
    """
    matrix = np.asarray(matrix_TT, dtype=np.float64)
    by_lag = np.array([np.trace(matrix, offset=lag) for lag in range(len(matrix))])
    first = [2**power for power in range(max(len(matrix) - 1, 0).bit_length())]
    ends = [*first[1:], len(matrix)]  # one more than starts if there is a single step
    sums = np.array([2 * by_lag[start:end].sum() for start, end in zip(first, ends, strict=False)], dtype=np.float64)
    return LagSums(first, sums, float(by_lag[0]))
