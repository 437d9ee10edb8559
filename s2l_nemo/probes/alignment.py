r"""Hessian alignment gamma, and the lower bound that Proposition E.4 (Eq. 20) makes of it.

gamma_ts = E[v^T H_t Sigma H_s v | q], with H_t = grad^2 log pi_theta(a_t | s_t) and Sigma the covariance of a random
change delta of the parameters. With h_t = v^T H_t delta it is E[h_t h_s], over delta and over rollouts of pi_theta.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from s2l_nemo.probes.covariance import bound_T
from s2l_nemo.probes.intervals import Floats


def gamma_TT(h_DNT: ArrayLike) -> Floats:
    """gamma for every pair of steps, from h_t = v^T H_t delta of D draws of delta and N rollouts. Unbiased."""
    h = np.asarray(h_DNT, dtype=np.float64)
    draws, rollouts, _ = h.shape
    result: Floats = np.einsum("dnt,dns->ts", h, h) / (draws * rollouts)
    return result


def lower_bound_TT(gamma: ArrayLike, diverged_T: ArrayLike, score_bound: float) -> Floats:
    """gamma_ts - 5 B^2 Pr_std(M_t = 0) for the earlier step t in rows (Eq. 20 without its O term)."""
    result: Floats = np.asarray(gamma, dtype=np.float64) - bound_T(diverged_T, score_bound)[:, None]
    return result


def share_above_zero(matrix_TT: ArrayLike) -> float:
    """Of the pairs t < s with a value that is not exactly 0, the share above 0. Half if there is no such pair."""
    matrix = np.asarray(matrix_TT, dtype=np.float64)
    pairs = matrix[np.triu_indices(len(matrix), k=1)]
    pairs = pairs[pairs != 0]
    return float((pairs > 0).mean()) if len(pairs) else 0.5
