"""Curves of experiments over what they spent, with bands over seeds. Pure: no file, no picture.

The line of an experiment is the mean over its finished seeds at each step that all of them have, at the mean of their
places. Where all seeds were asked the same problems, its band is a 95 % interval for other seeds and other problems
(`measures.crossed`). A metric of training has one value a seed: its band goes from the lowest seed to the highest, and
is no interval. One seed gives a line without a band. A run that is not finished is a dotted line of its own, and part
of no mean: a mean whose seeds change on the way would show their change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from typing_extensions import assert_never

from s2l_nemo.measures.crossed import crossed_mean
from s2l_nemo.reproduction.report.runs import Experiment, Run


class Value(NamedTuple):
    """What a run has at a step: one number for each problem that it was asked, or a single one without problems."""

    of_each: Sequence[float]
    problems: tuple[object, ...] = ()  # which problems these are

    @property
    def mean(self) -> float:
        return sum(self.of_each) / len(self.of_each)


Values = dict[int, Value]  # by step


class Axis(str, Enum):
    """Over what a curve is drawn."""

    steps = "steps"
    prompts = "prompts"
    tokens = "tokens"
    flops = "flops"


class Band(str, Enum):
    """What the band of a curve is."""

    none = "none"
    interval = "95 % interval"
    seeds = "lowest and highest seed"


AXIS_TITLES = {
    Axis.steps: "training step",
    Axis.prompts: "prompts seen",
    Axis.tokens: "generated tokens",
    Axis.flops: "FLOP of the run so far",
}


@dataclass(frozen=True)
class Point:
    """A place of a curve. `by_seed` are the values that `mean`, `low` and `high` are made of."""

    step: int
    x: float
    mean: float
    low: float
    high: float
    by_seed: Mapping[int, float]


@dataclass(frozen=True)
class Curve:
    """A line of a picture: the finished seeds of an experiment together, or one run that is not finished."""

    experiment: str
    seeds: tuple[int, ...]
    is_finished: bool
    points: list[Point]
    band: Band

    @property
    def name(self) -> str:
        return self.experiment if self.is_finished else f"{self.experiment}, seed {self.seeds[0]}, unfinished"

    @property
    def short_name(self) -> str:
        """For a legend, where two short names fit side by side."""
        return self.experiment if self.is_finished else f"{self.experiment} ({self.seeds[0]}, unfinished)"


def metric(key: str) -> Callable[[Run], Values]:
    """The values of a metric by step, without those steps that do not have it."""

    def values(run: Run) -> Values:
        return {line["step"]: Value([float(line[key])]) for line in run.metrics if line.get(key) is not None}

    return values


def validation(name: str) -> Callable[[Run], Values]:
    """pass@1 of the validations or evaluated checkpoints of this name; step 0 is before training."""

    def values(run: Run) -> Values:
        origin = str(run.setting("data"))  # equal ids of other data are other problems
        return {
            step: Value(asked.rates_P, (origin, *asked.ids)) for step, asked in run.over_steps.get(name, {}).items()
        }

    return values


def places(run: Run, axis: Axis) -> dict[int, float]:
    """Where each step lies on the axis. Step 0 lies at 0."""
    counted = {line["step"]: _spent(line, axis) for line in run.metrics}
    return {0: 0.0, **{step: amount for step, amount in counted.items() if amount is not None}}


def _spent(line: Mapping[str, Any], axis: Axis) -> float | None:
    match axis:
        case Axis.steps:
            return float(line["step"])
        case Axis.prompts:
            return _sum(line, "total/prompts")
        case Axis.tokens:
            return _sum(line, "total/tokens_explorer", "total/tokens_learner")
        case Axis.flops:
            return _sum(line, "total/flops")
        case _:
            assert_never(axis)


def _sum(line: Mapping[str, Any], *keys: str) -> float | None:
    amounts = [line.get(key) for key in keys]
    known = [float(amount) for amount in amounts if amount is not None]
    return sum(known) if len(known) == len(keys) else None


def curves(experiments: Sequence[Experiment], values: Callable[[Run], Values], axis: Axis = Axis.steps) -> list[Curve]:
    """The curves of all experiments that have a value, in their order."""
    found = []
    for experiment in experiments:
        groups = [(True, experiment.finished), *((False, [run]) for run in experiment.unfinished)]
        for is_finished, runs in groups:
            having = [run for run in runs if values(run)]
            band, points = _points(having, values, axis)
            if points:
                found.append(Curve(experiment.name, tuple(run.seed for run in having), is_finished, points, band))
    return found


def _points(runs: Sequence[Run], values: Callable[[Run], Values], axis: Axis) -> tuple[Band, list[Point]]:
    """At the steps that all of these runs have."""
    if not runs:
        return Band.none, []
    ys = {run.seed: values(run) for run in runs}
    xs = {run.seed: places(run, axis) for run in runs}
    steps = sorted(set.intersection(*(ys[run.seed].keys() & xs[run.seed].keys() for run in runs)))
    at = {step: {run.seed: ys[run.seed][step] for run in runs} for step in steps}
    band = _band(list(at.values()))
    return band, [_point(step, [xs[run.seed][step] for run in runs], at[step], band) for step in steps]


def _band(by_seed: Sequence[Mapping[int, Value]]) -> Band:
    """`by_seed` are the values of each step."""
    if not by_seed or len(by_seed[0]) == 1:
        return Band.none
    asked = [{value.problems for value in values.values()} for values in by_seed]
    return Band.interval if all(len(problems) == 1 and problems != {()} for problems in asked) else Band.seeds


def _point(step: int, xs: Sequence[float], by_seed: Mapping[int, Value], band: Band) -> Point:
    ys = {seed: value.mean for seed, value in by_seed.items()}
    mean, low, high = sum(ys.values()) / len(ys), min(ys.values()), max(ys.values())
    if band is Band.interval:
        interval = crossed_mean([value.of_each for value in by_seed.values()])
        assert interval is not None, "several seeds have an interval"
        mean, low, high = interval
    return Point(step, sum(xs) / len(xs), mean, low, high, ys)


def seeds_in_words(found: Sequence[Curve]) -> str:
    """Which seeds each line stands for, and what its band is."""
    names: dict[str, list[str]] = {}
    for curve in found:
        names.setdefault(_what(curve), []).append(curve.name)
    return "; ".join(f"{', '.join(those)}: {what}" for what, those in names.items()) + "."


def _what(curve: Curve) -> str:
    if not curve.is_finished:
        return f"dotted, to step {curve.points[-1].step}, in no mean"
    seeds = ", ".join(map(str, curve.seeds))
    match curve.band:
        case Band.none:
            return f"seed {seeds} alone, no band"
        case Band.interval:
            return f"mean of seeds {seeds}, band: 95 % interval for other seeds and other problems"
        case Band.seeds:
            return f"mean of seeds {seeds}, band from the lowest to the highest, which is no interval"
        case _:
            assert_never(curve.band)
