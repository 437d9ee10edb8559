"""Figures with intervals over prompts, made of what was taken of each prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from s2l_nemo.errors import UserError
from s2l_nemo.probes.alignment import lower_bound_TT, share_above_zero
from s2l_nemo.probes.covariance import CONSTANT, LOGIT_BOUND, LagSums
from s2l_nemo.probes.growth import clock_slope, horizon, lengths_between, log_slope
from s2l_nemo.probes.intervals import Floats, Statistic, interval_of, only, ratio
from s2l_nemo.probes.measuring.facts import Along, GammaFacts, Space, SpaceFacts
from s2l_nemo.probes.measuring.rollouts import Condition, Rollouts, Who
from s2l_nemo.probes.prefix import decay_bound_T, decay_rate, held_T, match_probability_T, matched_NT

AllFacts = Mapping[Who, Mapping[Space, Sequence[SpaceFacts]]]  # of every prompt, in the order of prompts


class Probe(str, Enum):
    """The four questions."""

    prefix = "prefix"
    covariance = "covariance"
    growth = "growth"
    gamma = "gamma"


@dataclass(frozen=True)
class Where:
    """Whose rollouts, which scores, which directions."""

    who: Who
    space: Space | None = None
    along: Along | None = None


@dataclass(frozen=True)
class Figure:
    """One number. `low` and `high` are its 95 % interval over prompts; null: it has none.

    `at` is a step t, a length l or the smallest distance s - t of a bin; null: the figure is one of its kind.
    """

    probe: Probe
    quantity: str
    equation: str
    who: Who
    space: Space | None
    along: Along | None
    at: int | None
    value: float | None
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, Any]:
        """The fields, enums by their values."""
        return {name: one.value if isinstance(one, Enum) else one for name, one in asdict(self).items()}


@dataclass(frozen=True)
class Intervals:
    """Makes figures of values [prompts, F], all with one seed."""

    seed: int

    def figure(
        self,
        probe: Probe,
        quantity: str,
        equation: str,
        where: Where,
        values_PF: ArrayLike,
        statistic: Statistic = only,
        at: int | None = None,
    ) -> Figure:
        """The statistic of means over prompts with its interval. One value a prompt may come without its axis."""
        values = np.asarray(values_PF, dtype=np.float64)
        values = values[:, None] if values.ndim == 1 else values
        found = interval_of(values, statistic, seed=self.seed) or (None, None, None)
        return Figure(probe, quantity, equation, where.who, where.space, where.along, at, *found)


def plain(probe: Probe, quantity: str, equation: str, where: Where, value: float) -> Figure:
    """A figure without an interval, such as a maximum."""
    return Figure(probe, quantity, equation, where.who, where.space, where.along, None, value, None, None)


def prefix_figures(rollouts: Rollouts, make: Intervals) -> Iterator[Figure]:
    """Pr(M_t = 1), exact and sampled, against (1 - p)^t."""
    steps, probe = rollouts.steps, Probe.prefix
    for one in rollouts.conditions:
        where = Where(one.who)
        exact = np.stack([held_T(match_probability_T(deviation), steps) for deviation in one.deviation_PT])
        bound = np.stack([held_T(decay_bound_T(deviation), steps) for deviation in one.deviation_PT])
        rows = zip(one.responses_PN, rollouts.references, strict=True)
        sampled = np.stack([matched_NT(responses, reference, steps).mean(axis=0) for responses, reference in rows])
        smallest, largest = ([extreme(d) for d in one.deviation_PT] for extreme in (np.min, np.max))
        yield make.figure(probe, "smallest deviation p", "Eq. 9", where, smallest)
        yield make.figure(probe, "largest deviation", "Eq. 9", where, largest)
        yield make.figure(probe, "deviation per step", "Eq. 8", where, [decay_rate(d) for d in one.deviation_PT])
        for t in lengths_between(1, steps, 24):
            yield make.figure(probe, "Pr(M_t = 1)", "Eq. 8", where, exact[:, t - 1], at=t)
            yield make.figure(probe, "Pr(M_t = 1) sampled", "Eq. 7", where, sampled[:, t - 1], at=t)
            yield make.figure(probe, "(1 - p)^t", "Eq. 10", where, bound[:, t - 1], at=t)


def covariance_figures(facts: AllFacts, rollouts: Rollouts, make: Intervals) -> Iterator[Figure]:
    """What distances add to the variance of a sum, and how much of its bound a covariance takes up."""
    probe = Probe.covariance
    for one in rollouts.conditions:
        silent = (CONSTANT * diverged_PT(one, rollouts.steps) >= 1).mean(axis=1)  # |Cov| <= B^2 is known anyway
        yield make.figure(probe, "share of steps with 5 Pr(M_t = 0) >= 1", "Cor. E.3", Where(one.who), silent)
        for space, found in facts[one.who].items():
            for along in Along:
                sums = [prompt.covariance[along] for prompt in found]
                yield from lag_figures(make, probe, "Eq. 17", Where(one.who, space, along), sums)
            largest = max(prompt.largest_z for prompt in found)
            share = max(prompt.share_of_bound for prompt in found)
            where = Where(one.who, space)
            yield plain(probe, "B", "Cor. E.3", where, LOGIT_BOUND if space is Space.logits else largest)
            yield plain(probe, "largest |z|", "Cor. E.3", where, largest)
            yield plain(probe, "largest |Cov| / bound", "Cor. E.3", where, share)


def diverged_PT(condition: Condition, steps: int) -> Floats:
    """Pr(M_t = 0), exact, for each prompt."""
    return np.stack([1 - held_T(match_probability_T(deviation), steps) for deviation in condition.deviation_PT])


def lag_figures(
    make: Intervals, probe: Probe, equation: str, where: Where, sums: Sequence[LagSums]
) -> Iterator[Figure]:
    """Of each bin of distances, twice its sum over the sum of the diagonal; and of all together."""
    diagonal_P = np.array([one.diagonal for one in sums])
    bins_PB = np.stack([one.sums_B for one in sums])
    for index, first in enumerate(sums[0].first_B):
        values = np.stack([bins_PB[:, index], diagonal_P], axis=1)
        yield make.figure(probe, "added by distance", equation, where, values, ratio, at=first)
    values = np.stack([bins_PB.sum(axis=1), diagonal_P], axis=1)
    yield make.figure(probe, "added by all distances", equation, where, values, ratio)


def growth_figures(facts: AllFacts, rollouts: Rollouts, make: Intervals) -> Iterator[Figure]:
    """|S_l|^2 over l: its slope, that of a random walk with the same terms, and their ratio at the last length."""
    last = min(
        horizon([len(response) for rows in one.responses_PN for response in rows]) for one in rollouts.conditions
    )
    lengths = lengths_between(max(1, last // 8), last)
    if len(lengths) < 2:
        raise UserError(
            f"one rollout in ten ends within {last} tokens, too few for a slope: choose another model or other prompts"
        )
    for space in Space:
        base = _at([one.square_T for one in facts[Who.baseline][space]], lengths)
        for who, spaces in facts.items():
            where, found = Where(who, space), spaces[space]
            yield from _growth_of(make, where, lengths, found)
            if who is not Who.baseline:
                values = np.hstack([_at([one.square_T for one in found], lengths), base])
                both = _difference(log_slope(lengths), len(lengths))
                yield make.figure(Probe.growth, "slope minus baseline's", "E.2", where, values, both)


def _growth_of(make: Intervals, where: Where, lengths: Sequence[int], found: Sequence[SpaceFacts]) -> Iterator[Figure]:
    square, walk, drift = (
        _at([getattr(one, name) for one in found], lengths) for name in ("square_T", "walk_T", "drift_T")
    )
    probe, slope = Probe.growth, log_slope(lengths)
    yield make.figure(probe, "slope", "E.2", where, square, slope)
    yield make.figure(probe, "slope of a random walk", "Eq. 18", where, walk, slope)
    yield make.figure(probe, "slope over a random walk", "Eq. 18", where, np.hstack([square, walk]), clock_slope)
    ends = np.stack([square[:, -1], walk[:, -1]], axis=1)
    yield make.figure(probe, "ratio to a random walk", "Eq. 18", where, ends, ratio)
    ends = np.stack([drift[:, -1], square[:, -1]], axis=1)
    yield make.figure(probe, "share of the drift", "Eq. 16", where, ends, ratio)
    for index, at in enumerate(lengths):
        yield make.figure(probe, "|S_l|^2", "Eq. 16", where, square[:, index], at=at)
        yield make.figure(probe, "random walk", "Eq. 18", where, walk[:, index], at=at)


def _at(curves: Sequence[Floats], lengths: Sequence[int]) -> Floats:
    return np.stack(curves)[:, np.asarray(lengths) - 1]


def _difference(statistic: Statistic, first: int) -> Statistic:
    """The statistic of the first `first` means minus that of the others, which belong to the same prompts."""

    def difference(means: Floats) -> Floats:
        result: Floats = statistic(means[..., :first]) - statistic(means[..., first:])
        return result

    return difference


def gamma_figures(
    found: Sequence[GammaFacts], rollouts: Rollouts, score_bound: float, make: Intervals
) -> Iterator[Figure]:
    """gamma by distance, how often it is positive, and what Eq. 20 makes of it."""
    base, probe = rollouts.conditions[0], Probe.gamma
    assert base.who is Who.baseline
    for along in Along:
        sums = [one.along[along] for one in found]
        yield from lag_figures(make, probe, "Prop. E.4", Where(base.who, Space.parameters, along), sums)
    where = Where(base.who, Space.parameters, Along.reference)
    positive = [share_above_zero(one.matrix_TT) for one in found]
    yield make.figure(probe, "share of pairs with gamma > 0", "Prop. E.4", where, positive)
    pairs = np.triu_indices(rollouts.steps, k=1)
    yield make.figure(probe, "mean gamma", "Prop. E.4", where, [one.matrix_TT[pairs].mean() for one in found])
    diverged = diverged_PT(base, rollouts.steps)
    lower = [
        lower_bound_TT(one.matrix_TT, diverged_T, score_bound)[pairs]
        for one, diverged_T in zip(found, diverged, strict=True)
    ]
    above = [(one > 0).mean() for one in lower]
    yield make.figure(probe, "share of pairs with a bound above 0", "Eq. 20", where, above)
    yield make.figure(probe, "mean lower bound", "Eq. 20", where, [one.mean() for one in lower])
    yield plain(probe, "largest lower bound", "Eq. 20", where, max(float(one.max()) for one in lower))
    yield plain(probe, "B", "Eq. 20", where, score_bound)
