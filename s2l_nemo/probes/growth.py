r"""How |sum_{t <= l} u_t|^2 grows with the length l (Eqs. 16 and 18, Appendix E.2).

The paper contrasts O(L), a random walk, with O(L^2). The terms |u_t|^2 differ from step to step, so a random walk need
not have slope 1: its own curve, sum_{t <= l} E|u_t|^2, stands beside.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from s2l_nemo.probes.intervals import Floats, Statistic


def lengths_between(first: int, last: int, count: int = 12) -> list[int]:
    """At most `count` different lengths from `first` to `last`, both included, evenly spaced in the logarithm."""
    return sorted({round(length) for length in np.geomspace(first, last, count)}) if last >= first else []


def horizon(lengths: Sequence[int], share: float = 0.9) -> int:
    """The largest l that at least `share` of the rollouts reach.

    Beyond it the sums of finished rollouts stand still, and a slope would say how rollouts end.
    """
    ranked = sorted(lengths, reverse=True)
    return ranked[int(np.ceil(share * len(ranked))) - 1]


def log_slope(lengths: Sequence[int]) -> Statistic:
    """The slope of log E|S_l|^2 over log l by least squares, for means at these lengths. Needs two lengths."""
    x = np.log(np.asarray(lengths, dtype=np.float64))
    weights_L = (x - x.mean()) / ((x - x.mean()) ** 2).sum()

    def slope(means: Floats) -> Floats:
        result: Floats = np.log(means) @ weights_L
        return result

    return slope


def clock_slope(means: Floats) -> Floats:
    """The slope of log E|S_l|^2 over the logarithm of the random walk of its own terms.

    1 for a random walk, 2 for equal terms that point one way, at whatever pace the terms come. `means` has |S_l|^2 at L
    lengths, then the sums of |u|^2 at the same ones.
    """
    y, x = np.split(np.log(means), 2, axis=-1)
    x = x - x.mean(axis=-1, keepdims=True)
    result: Floats = (x * y).sum(axis=-1) / (x * x).sum(axis=-1)
    return result


def drift_T(mean_squares_T: ArrayLike, squared_means_T: ArrayLike, rollouts: int) -> Floats:
    """|E S_t|^2, unbiased, from the mean of |S_t|^2 over N rollouts and the squared norm of the mean of S_t.

    The plug-in |mean|^2 has the noise of the mean in it: E|mean|^2 = |E S|^2 + (E|S|^2 - |E S|^2) / N.
    """
    if rollouts < 2:
        raise ValueError(f"a drift needs at least 2 rollouts, got {rollouts}")
    squares, means = (np.asarray(values, dtype=np.float64) for values in (mean_squares_T, squared_means_T))
    result: Floats = (rollouts * means - squares) / (rollouts - 1)
    return result
