"""The probes' intervals cover the exact figure in 95 of 100 repetitions, up to the noise of the repetitions.

A repetition draws prompts from the six of the tabular policy, and a few responses to each, as `recipes/probe.py` does.
Exact figures come from enumeration.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import pytest
import torch

from s2l_nemo.measures.statistics import Interval
from s2l_nemo.probes.alignment import gamma_TT
from s2l_nemo.probes.covariance import covariance_TT, lag_sums
from s2l_nemo.probes.growth import log_slope
from s2l_nemo.probes.intervals import Floats, Statistic, interval_of, only, ratio
from s2l_nemo.probes.scores import Parameters, gaussian, hessian_projections, unit
from tests.probes.tabular import PROMPTS, STEPS, World, flat, log_probs_of, parameters

REPETITIONS, UNITS, ROLLOUTS = 400, 40, 8
WEIGHTS = parameters(0)
LENGTHS = list(range(1, STEPS + 1))
# Of the share of successes of 400 draws with probability 0.95: three standard deviations, both ways.
TOLERANCE = NormalDist().inv_cdf(0.99865) * (0.95 * 0.05 / REPETITIONS) ** 0.5


def direction(seed: int) -> Parameters:
    generator = torch.Generator().manual_seed(seed)
    return unit({name: one.double() for name, one in gaussian(WEIGHTS, generator).items()})


@dataclass(frozen=True)
class Table:
    """Of every response to one prompt, sampled at temperature 1.5."""

    world: World
    z_NT: Floats
    h_NT: Floats

    def figures(self, probe: str, rows: npt.NDArray[np.int64] | None) -> Floats:
        """What the probe takes of these rollouts of the prompt. Without rows: the exact expectations."""
        world = self.world
        if probe == "match":
            return self._mean(world.matched_NT.astype(float), rows)[2:3]
        if probe == "growth":
            return self._mean((world.scores_NTD.cumsum(axis=1) ** 2).sum(axis=2), rows)
        if probe == "covariance":
            sums = lag_sums(world.covariance_TT(self.z_NT) if rows is None else covariance_TT(self.z_NT[rows]))
        else:
            exact_TT = world.mean(self.h_NT[:, :, None] * self.h_NT[:, None, :])
            sums = lag_sums(exact_TT if rows is None else gamma_TT(self.h_NT[None, rows]))
        return np.array([sums.sums_B.sum(), sums.diagonal])

    def _mean(self, values_NT: Floats, rows: npt.NDArray[np.int64] | None) -> Floats:
        return self.world.mean(values_NT) if rows is None else values_NT[rows].mean(axis=0)


@cache
def table(prompt: int) -> Table:
    world = World(WEIGHTS, WEIGHTS, prompt, temperature=1.5)
    h_NT = hessian_projections(log_probs_of(prompt), WEIGHTS, direction(5), direction(6)).numpy()
    return Table(world, world.scores_NTD @ flat(direction(5)).numpy(), h_NT)


STATISTICS: dict[str, Statistic] = {"match": only, "covariance": ratio, "growth": log_slope(LENGTHS), "gamma": ratio}


def repeated(probe: str) -> list[Interval]:
    """The intervals of all repetitions."""
    rng = np.random.default_rng(7)
    found = []
    for _ in range(REPETITIONS):
        units = []
        for prompt in rng.integers(0, PROMPTS, UNITS):
            probability_N = table(int(prompt)).world.probability_N
            rows = rng.choice(len(probability_N), size=ROLLOUTS, p=probability_N / probability_N.sum())
            units.append(table(int(prompt)).figures(probe, rows))
        interval = interval_of(np.stack(units), STATISTICS[probe], resamples=1_000, seed=int(rng.integers(2**31)))
        assert interval is not None
        found.append(interval)
    return found


@pytest.mark.parametrize("probe", list(STATISTICS))
def test_intervals_cover_at_the_nominal_rate(probe: str) -> None:
    exact_F = np.mean([table(prompt).figures(probe, None) for prompt in range(PROMPTS)], axis=0)
    truth = float(STATISTICS[probe](exact_F))
    intervals = repeated(probe)
    covered = np.mean([interval.low <= truth <= interval.high for interval in intervals])
    assert covered == pytest.approx(0.95, abs=TOLERANCE)
    # and they are no wider than they must be: the error of the estimates has the size that they say
    spread = np.std([interval.mean for interval in intervals])
    width = np.mean([interval.high - interval.low for interval in intervals])
    assert width / (2 * 1.96 * spread) == pytest.approx(1, abs=0.2)


def test_a_figure_that_is_not_finite_has_no_interval() -> None:
    assert interval_of([[1.0, 0.0]], ratio) is None
    assert interval_of([[1.0, 0.0], [1.0, 1.0]], ratio) is None  # in a resample of the first unit alone
    found = interval_of([[1.0, 1.0], [3.0, 1.0]], ratio)
    assert found is not None
    assert found.mean == 2
    assert (found.low, found.high) == (1, 3)


@pytest.mark.parametrize("values", [[], [[]], [1.0]])
def test_no_units_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="expected units x figures"):
        interval_of(values, only)
