"""The mean of values that two things move at once: S seeds of training, and P problems that every seed is asked.

A value is x_sp = mean + a_s + b_p + e_sp, with a of the seeds, b of the problems, and e of both (the two-way random
model, Scheffe, The Analysis of Variance, 1959, ch. 7). The interval uses the model's variance of the mean and Student's
t with Satterthwaite's degrees of freedom. A bootstrap over seeds and problems cannot do this: of three seeds it makes
ten different samples, and if seeds differ more than problems, it covers the truth in 3 of 4 experiments
(`tests/measures/test_crossed.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from s2l_nemo.measures.statistics import Floats, Interval, bootstrap_mean, pass_at_k

Tally = tuple[int, int]  # samples of a problem, and how many of them are right

_GRID = 10_001  # angles at which the density of Student's t is summed; quantiles are right to 4 digits
_MOST_FREEDOM = 1e4  # above, Student's t is the normal distribution to 4 digits


def crossed_mean(values_SP: ArrayLike, seed: int = 0) -> Interval | None:
    """The mean with its 95 % interval for other seeds and other problems. None for a single value, which has none.

    `values_SP` are S seeds x P problems, as differences between two methods. With one seed, the interval is a bootstrap
    over the problems (`seed` is that of its draws) and says nothing of other seeds. With one value a seed, it is
    Student's t over the seeds. If all values are equal, the interval has no width. Raises ValueError if there is no
    value.
    """
    values = np.asarray(values_SP, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"expected seeds x problems with at least one of each, got shape {values.shape}")
    seeds, problems = values.shape
    if values.size == 1:
        return None
    if seeds == 1:
        return bootstrap_mean(values.T, seed=seed)
    center = float(values.mean())
    variance, freedom = _of_seeds(values) if problems == 1 else _of_both(values)
    if variance == 0.0:
        return Interval(center, center, center)
    half = student_quantile(0.975, freedom) * math.sqrt(variance)
    return Interval(center, center - half, center + half)


def pass_curve(tallies_SP: Sequence[Sequence[Tally]], ks: Iterable[int], seed: int = 0) -> dict[int, Interval]:
    """pass@k by k, with the interval of `crossed_mean`. A single problem of a single seed has one without width.

    Raises ValueError if a problem has fewer than k samples, or the seeds have other numbers of problems.
    """
    curve = {}
    for k in ks:
        passes_SP = [[pass_at_k(samples, right, k) for samples, right in of_seed] for of_seed in tallies_SP]
        curve[k] = crossed_mean(passes_SP, seed) or Interval(*(passes_SP[0] * 3))
    return curve


def student_quantile(share: float, freedom: float) -> float:
    """The value below which this share (from 0.5 on, below 1) of Student's t with `freedom` >= 1 lies.

    With t = sqrt(freedom) tan(x), the density of x is proportional to cos(x)^(freedom - 1), from -pi/2 to pi/2.
    Raises ValueError for other arguments.
    """
    if not 0.5 <= share < 1 or freedom < 1:
        raise ValueError(f"expected a share from 0.5 to 1 and at least 1 degree of freedom, got {share} and {freedom}")
    freedom = min(freedom, _MOST_FREEDOM)
    x = np.linspace(0.0, math.pi / 2, _GRID)
    density = np.cos(x) ** (freedom - 1)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(freedom) * math.tan(float(np.interp((2 * share - 1) * below[-1], below, x)))


def _of_seeds(values_S1: Floats) -> tuple[float, float]:
    """The variance of the mean of one value a seed, and its degrees of freedom."""
    return float(values_S1.var(ddof=1)) / len(values_S1), len(values_S1) - 1


def _of_both(values_SP: Floats) -> tuple[float, float]:
    """The variance of the mean over seeds and problems, and its degrees of freedom.

    S P var = M_S + M_P - M_E, the mean squares of seeds, problems and the rest. If M_S < M_E, seeds make no difference
    that can be seen, and M_P alone is left; the other way round as well. So the variance is never below either.
    """
    seeds, problems = values_SP.shape
    of_seed = values_SP.mean(axis=1, keepdims=True)
    of_problem = values_SP.mean(axis=0, keepdims=True)
    rest = values_SP - of_seed - of_problem + values_SP.mean()
    squares = (
        (problems * float(of_seed.var(ddof=1)), seeds - 1),
        (seeds * float(of_problem.var(ddof=1)), problems - 1),
        (float((rest**2).sum()) / ((seeds - 1) * (problems - 1)), (seeds - 1) * (problems - 1)),
    )
    (by_seed, _), (by_problem, _), (by_rest, _) = squares
    whole = max(by_seed + by_problem - by_rest, by_seed, by_problem)
    spread = sum(mean_square**2 / freedom for mean_square, freedom in squares)
    return whole / values_SP.size, max(1.0, whole**2 / spread) if spread else 1.0
