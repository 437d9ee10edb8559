"""Bootstrap intervals of figures that are functions of means, such as a slope or a ratio."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from s2l_nemo.measures.statistics import Interval, expanded_tail

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]  # means [..., F] in, the figure [...] out


def interval_of(
    values_UF: ArrayLike, statistic: Statistic, *, resamples: int = 2_000, seed: int = 0
) -> Interval | None:
    """The figure that `statistic` makes of the means over units, with its 95 % expanded percentile interval.

    Whole units are drawn, because what belongs to one prompt is not independent. The levels are widened for few units,
    as in `measures.statistics.bootstrap_mean`. None if the figure is not finite for the units, or for a resample of
    them. Raises ValueError if there is no unit.
    """
    values = np.asarray(values_UF, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"expected units x figures with at least one of each, got shape {values.shape}")
    size = len(values)
    rng = np.random.default_rng(seed)
    weights_RU = rng.multinomial(size, np.full(size, 1.0 / size), resamples) / size
    with np.errstate(divide="ignore", invalid="ignore"):
        figure = float(statistic(values.mean(axis=0)))
        figures_R = statistic(weights_RU @ values)
    if not (np.isfinite(figure) and np.isfinite(figures_R).all()):
        return None
    tail = expanded_tail(size)
    low, high = np.quantile(figures_R, (tail, 1.0 - tail))
    return Interval(figure, float(low), float(high))


def only(means: Floats) -> Floats:
    """The statistic of a single mean: the mean itself."""
    return means[..., 0]


def ratio(means: Floats) -> Floats:
    """The first mean over the second."""
    return means[..., 0] / means[..., 1]
