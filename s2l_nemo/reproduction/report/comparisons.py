"""The tables of the paper beside what these runs found. Differences are computed, on both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from s2l_nemo.evaluation.plots import TITLES
from s2l_nemo.measures.crossed import crossed_mean
from s2l_nemo.measures.statistics import Interval
from s2l_nemo.reproduction.report.paper import MODE, PROMPTS_PER_STEP, STEPS, Comparison, PaperTable, Setting
from s2l_nemo.reproduction.report.runs import Experiment, Study

NOT_RUN = "not run"
OTHER_PROBLEMS = "not compared: the two were asked different problems"
OTHER_SEEDS = "not compared: the two have no seed in common"


class Problems(NamedTuple):
    """What one run found on a set of problems: rewards of P problems x K samples, and which problems they are.

    `origin` says where the problems come from: equal ids of other data are other problems.
    """

    ids: Sequence[int | str]
    correct_PK: Sequence[Sequence[float]]
    origin: str
    mode: str | None = None
    subset: str | None = None

    def asks_the_same(self, other: Problems) -> bool:
        return (self.ids, self.origin) == (other.ids, other.origin)


BySeed = dict[int, Problems]


@dataclass(frozen=True)
class Ours:
    """Two experiments on the same problems with the same seeds, in percent.

    `difference` has its 95 % interval for other seeds and other problems. With one seed it is for other problems only.
    It has no width if nothing differs, or if there is but one value. `by_seed` are the differences of each seed, in
    points. `left_out` are the seeds that only one of the two has.
    """

    baseline: float
    treated: float
    difference: Interval
    problems: int
    by_seed: Mapping[int, float]
    left_out: tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """A line of a table of the paper. `paper`: baseline, treated, difference. `away`: our difference less the paper's,
    with our interval, or None if `why_not` says why there is none.
    """

    label: str
    benchmark: str
    paper: tuple[float, float, float]
    ours: Ours | None
    away: Interval | None
    why_not: str
    slip: str = ""


@dataclass(frozen=True)
class OwnRow:
    """Two experiments on problems that the paper did not ask."""

    baseline: str
    treated: str
    benchmark: str
    ours: Ours


def own_rows(tables: Sequence[PaperTable], study: Study) -> list[OwnRow]:
    """The pairs of these tables on the other problems that both were asked, each pair once."""
    rows: dict[tuple[str, str, str], OwnRow] = {}
    for comparison in (one for table in tables for one in table.comparisons):
        baseline, treated = _pair(comparison, study)
        for name, asked in _shared(baseline, treated).items():
            if name not in comparison.figures and not unpaired(*asked) and baseline and treated:
                row = OwnRow(baseline.name, treated.name, _title(name), compare(*asked))
                rows[row.baseline, row.treated, row.benchmark] = row
    return list(rows.values())


def _pair(comparison: Comparison, study: Study) -> tuple[Experiment | None, Experiment | None]:
    return study.find(comparison.baseline.experiments), study.find(comparison.treated.experiments)


def rows_of(table: PaperTable, study: Study) -> list[Row]:
    """The rows of the paper, with what the same pair found on the same problems."""
    return [row for comparison in table.comparisons for row in _rows(comparison, study)]


def _rows(comparison: Comparison, study: Study) -> list[Row]:
    baseline, treated = _pair(comparison, study)
    asked = _shared(baseline, treated)
    rows = []
    for benchmark, figures in comparison.figures.items():
        paper = (figures.baseline, figures.treated, figures.difference)
        title = TITLES.get(benchmark, benchmark)
        slip = ""
        if figures.printed is not None and figures.printed != figures.difference:
            slip = f"the paper prints {figures.printed:+.1f}, its own values give {figures.difference:+.1f}"
        reason = unpaired(*asked[benchmark]) if benchmark in asked else NOT_RUN
        if reason or not (baseline and treated):
            rows.append(Row(comparison.label, title, paper, None, None, reason, slip))
            continue
        ours = compare(*asked[benchmark])
        why_not = _why_not(comparison, baseline, treated, asked[benchmark])
        away = None if why_not else Interval(*(end - figures.difference for end in ours.difference))
        rows.append(Row(comparison.label, title, paper, ours, away, why_not, slip))
    return rows


def _title(name: str) -> str:
    """Held-out prompts and benchmarks of validations say so: they are no evaluation."""
    kind, _, rest = name.partition(" ")
    if kind != "validation":
        return TITLES.get(name, name)
    return f"{TITLES.get(rest, rest)}, as validated in training" if rest else "held-out prompts of these runs"


def _shared(baseline: Experiment | None, treated: Experiment | None) -> dict[str, tuple[BySeed, BySeed]]:
    """What both were asked after training, by benchmark. Validations ask in other ways and have names of their own."""
    if baseline is None or treated is None:
        return {}
    first, second = _asked(baseline), _asked(treated)
    return {name: (first[name], second[name]) for name in first if name in second}


def _asked(experiment: Experiment) -> dict[str, BySeed]:
    """Of the finished runs alone: what others found may change."""
    found: dict[str, BySeed] = {}
    for run in experiment.finished:
        for name, by_step in run.validations.items():
            last = by_step.get(run.last_step)
            if last is not None:
                own = f"validation {name}".strip()
                found.setdefault(own, {})[run.seed] = Problems(last.ids, last.correct_PK, str(run.setting("data")))
        for one in run.evaluations:
            mode = None if one.mode is None else one.mode.value
            asked = Problems(one.ids, one.correct_PK, one.benchmark, mode, one.subset)
            found.setdefault(one.benchmark, {})[run.seed] = asked
    return found


def unpaired(baseline: BySeed, treated: BySeed) -> str:
    """Why two experiments cannot be compared; empty if they can."""
    shared = _shared_seeds(baseline, treated)
    everyone = [found[seed] for seed in shared for found in (baseline, treated)]
    if not everyone:
        return OTHER_SEEDS
    return "" if all(everyone[0].asks_the_same(other) for other in everyone) else OTHER_PROBLEMS


def compare(baseline: BySeed, treated: BySeed) -> Ours:
    """Their means over the seeds that both have, paired by seed and problem. For two that `unpaired` lets pass."""
    shared = _shared_seeds(baseline, treated)
    first_SP, second_SP = (np.array([_percent_P(found[seed]) for seed in shared]) for found in (baseline, treated))
    gains_SP = second_SP - first_SP
    mean = float(gains_SP.mean())
    return Ours(
        float(first_SP.mean()),
        float(second_SP.mean()),
        crossed_mean(gains_SP) or Interval(mean, mean, mean),
        gains_SP.shape[1],
        dict(zip(shared, gains_SP.mean(axis=1).tolist(), strict=True)),
        tuple(sorted(baseline.keys() ^ treated.keys())),
    )


def _shared_seeds(baseline: BySeed, treated: BySeed) -> list[int]:
    return sorted(baseline.keys() & treated.keys())


def _percent_P(problems: Problems) -> list[float]:
    """For each problem, its share of right samples."""
    return [100 * sum(row) / len(row) for row in problems.correct_PK]


def _why_not(comparison: Comparison, baseline: Experiment, treated: Experiment, asked: tuple[BySeed, BySeed]) -> str:
    """Why a difference to the paper would say nothing; empty if it says something."""
    pairs: list[tuple[Setting, Experiment]] = [(comparison.baseline, baseline), (comparison.treated, treated)]
    for setting, experiment in pairs:
        for key, wanted in (("model.path", setting.learner), ("explorer.path", setting.explorer)):
            used = {_model(run.setting(key)) for run in experiment.finished}
            if wanted is not None and used != {wanted.lower()}:
                shown = ", ".join(sorted(name or "none" for name in used))
                return f"not comparable: {experiment.name} has {key}={shown}, the paper {wanted}"
    for experiment in (baseline, treated):
        for key, amount in (("algorithm.steps", STEPS), ("algorithm.prompts_per_step", PROMPTS_PER_STEP)):
            others = {run.setting(key) for run in experiment.finished} - {amount}
            if others:
                return f"not comparable: {experiment.name} has {key}={', '.join(map(str, others))}, the paper {amount}"
    modes = {one.mode for by_seed in asked for one in by_seed.values()} - {MODE}
    if modes:
        shown = ", ".join(sorted(mode or "unknown" for mode in modes))
        return f"not comparable: evaluated in mode {shown}, the paper in {MODE}"
    subsets = {one.subset for by_seed in asked for one in by_seed.values()} - {None}
    if subsets:
        return f"not comparable: only {', '.join(sorted(map(str, subsets)))} of the problems"
    return ""


def _model(path: object) -> str:
    """The name of a model, from a folder or a name of the hub."""
    return PurePosixPath(str(path).split("@")[0]).name.lower() if path else ""
