"""pass@k and bootstrap intervals. P problems, K samples of each; correct values are 0 or 1."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

_DRAWS_AT_ONCE = 4_000_000  # 32 MB of indices, whatever the number of problems


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that k samples drawn without replacement from n, of which c are correct, hold a correct one.

    The unbiased estimator 1 - C(n-c, k) / C(n, k) of Chen et al. (arXiv 2107.03374, Eq. 1), in integers.
    Raises ValueError unless 1 <= k <= n and 0 <= c <= n.
    """
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs at least {k} samples (k >= 1), got {n}")
    if not 0 <= c <= n:
        raise ValueError(f"{c} correct of {n} samples")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def mean_pass_at_1(correct_PK: ArrayLike) -> float:
    """Mean over problems of the share of correct samples."""
    return float(_per_problem(correct_PK).mean())


def bootstrap_mean(values_PK: ArrayLike, *, resamples: int = 10_000, seed: int = 0) -> tuple[float, float, float]:
    """Mean over problems with its 95 % percentile interval: (mean, low, high).

    Whole problems are drawn, since samples of one problem are not independent. Raises ValueError without a problem.
    """
    values_P = _per_problem(values_PK)
    size = len(values_P)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    rows = max(1, _DRAWS_AT_ONCE // size)
    for start in range(0, resamples, rows):
        stop = min(start + rows, resamples)
        means[start:stop] = values_P[rng.integers(0, size, (stop - start, size))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(values_P.mean()), float(low), float(high)


def paired_bootstrap(
    before_PK: ArrayLike, after_PK: ArrayLike, *, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Gain in mean pass@1 on the same problems with its 95 % interval: (difference, low, high).

    Row p of both is the same problem; K may differ. Problems are resampled in pairs, so their difficulty cancels.
    Raises ValueError where the numbers of problems differ or are 0.
    """
    before_P, after_P = _per_problem(before_PK), _per_problem(after_PK)
    if len(before_P) != len(after_P):
        raise ValueError(f"a paired comparison needs the same problems, got {len(before_P)} and {len(after_P)}")
    return bootstrap_mean((after_P - before_P)[:, None], resamples=resamples, seed=seed)


def _per_problem(values_PK: ArrayLike) -> np.ndarray:
    values = np.asarray(values_PK, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"expected problems x samples with at least one of each, got shape {values.shape}")
    return values.mean(axis=1)
