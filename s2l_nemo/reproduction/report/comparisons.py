"""The tables of the paper beside what these runs found. Differences are computed, on both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

from s2l_nemo.evaluation.plots import TITLES
from s2l_nemo.measures.statistics import Interval, paired_bootstrap
from s2l_nemo.reproduction.report.paper import MODE, PROMPTS_PER_STEP, STEPS, Comparison, PaperTable, Setting
from s2l_nemo.reproduction.report.runs import Experiment, Study

NOT_RUN = "not run"
UNPAIRED = "not compared: the two were asked different problems"


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
    """Two experiments on the same problems, in percent. `difference` has its 95 % interval over problems.

    `by_seed` are the differences of the seeds that both have, in points: the interval knows nothing of them.
    """

    baseline: float
    treated: float
    difference: Interval
    problems: int
    by_seed: Mapping[int, float]
    seeds: tuple[tuple[int, ...], tuple[int, ...]]


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
            ours = None if name in comparison.figures else compare(*asked)
            if ours is not None and baseline and treated:
                row = OwnRow(baseline.name, treated.name, _title(name), ours)
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
        ours = compare(*asked[benchmark]) if benchmark in asked else None
        if ours is None or not (baseline and treated):
            reason = UNPAIRED if benchmark in asked else NOT_RUN
            rows.append(Row(comparison.label, title, paper, None, None, reason, slip))
            continue
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


def compare(baseline: BySeed, treated: BySeed) -> Ours | None:
    """The means over seeds for each problem, paired by problem; None if not all were asked the same problems."""
    everyone = [*baseline.values(), *treated.values()]
    if not all(everyone[0].asks_the_same(other) for other in everyone):
        return None
    first_P, second_P = _means(baseline), _means(treated)
    gain = paired_bootstrap([[value] for value in first_P], [[value] for value in second_P])
    shared = [seed for seed in baseline if seed in treated]
    by_seed = {seed: 100 * (_mean(treated[seed]) - _mean(baseline[seed])) for seed in shared}
    return Ours(
        100 * sum(first_P) / len(first_P),
        100 * sum(second_P) / len(second_P),
        Interval(*(100 * end for end in gain)),
        len(first_P),
        by_seed,
        (tuple(baseline), tuple(treated)),
    )


def _means(by_seed: BySeed) -> list[float]:
    """For each problem, the mean over seeds of its share of right samples."""
    rows = [[sum(row) / len(row) for row in one.correct_PK] for one in by_seed.values()]
    return [sum(values) / len(values) for values in zip(*rows, strict=True)]


def _mean(problems: Problems) -> float:
    return sum(sum(row) / len(row) for row in problems.correct_PK) / len(problems.correct_PK)


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
