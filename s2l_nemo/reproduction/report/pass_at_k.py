"""pass@k of experiments, from their evaluations: intervals over seeds and problems, or of one seed over problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from s2l_nemo.errors import UserError
from s2l_nemo.evaluation.plots import TITLES, label, looks
from s2l_nemo.evaluation.results import BenchmarkResult
from s2l_nemo.measures.crossed import pass_curve
from s2l_nemo.measures.statistics import Interval
from s2l_nemo.reproduction.report.chart import Cell, Chart, legend
from s2l_nemo.reproduction.report.runs import Study, evaluation_name, evaluations_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class PassAtK:
    """pass@k of one model or experiment on one benchmark, by k, with 95 % intervals.

    They are for other problems, and for other seeds too if there are several (`measures.crossed`).
    """

    name: str
    benchmark: str
    problems: int
    seeds: tuple[int, ...]  # none: a model before training
    by_k: dict[int, Interval]


def of_seeds(name: str, results: Mapping[int, BenchmarkResult]) -> PassAtK:
    """The mean over seeds and problems, for every k that all seeds have samples for.

    Raises UserError if the seeds answered other problems.
    """
    first = next(iter(results.values()))
    for seed, result in results.items():
        if result.ids != first.ids:
            raise UserError(f"{name}, seed {seed}: {first.benchmark} has other problems than another seed's")
    K = min(result.samples for result in results.values())
    tallies_SP = [[(len(row), sum(row)) for row in result.correct_PK] for result in results.values()]
    by_k = pass_curve(tallies_SP, sorted(k for k in first.pass_at_k if k <= K))
    return PassAtK(name, first.benchmark, first.problems, tuple(results), by_k)


def all_pass_at_k(study: Study) -> list[PassAtK]:
    """Of each experiment and benchmark, then of the models in `ROOT/evaluation`, which are those before training."""
    found = []
    for experiment in study.experiments:
        of_benchmark: dict[tuple[str, str], dict[int, BenchmarkResult]] = {}
        for run in experiment.runs:
            several = len({evaluation_name(one) for one in run.evaluations}) > 1
            for one in run.evaluations:
                name = f"{experiment.name}: {evaluation_name(one)}" if several else experiment.name
                of_benchmark.setdefault((name, one.benchmark), {})[run.seed] = one
        found += [of_seeds(name, by_seed) for (name, _), by_seed in of_benchmark.items()]
    if len(study.runs) > 1 or study.root != study.runs[0].folder:  # the folder of a single run has been read
        for one in evaluations_of(study.root / "evaluation"):
            found.append(PassAtK(evaluation_name(one), one.benchmark, one.problems, (), one.pass_at_k))
    return found


def pass_at_k_charts(study: Study) -> list[Chart]:
    """One picture a benchmark."""
    found = all_pass_at_k(study)
    names = list(dict.fromkeys([*(experiment.name for experiment in study.experiments), *(one.name for one in found)]))
    benchmarks = dict.fromkeys(one.benchmark for one in found)
    return [_chart([one for one in found if one.benchmark == benchmark], names) for benchmark in benchmarks]


def _chart(shown: Sequence[PassAtK], names: Sequence[str]) -> Chart:
    benchmark = shown[0].benchmark
    rows: list[list[Cell]] = [
        [one.name, " ".join(map(str, one.seeds)), one.problems, k, *interval]
        for one in shown
        for k, interval in one.by_k.items()
    ]
    alike: dict[str, list[str]] = {}
    for one in shown:
        alike.setdefault(_what(one.seeds), []).append(one.name)
    parts = [f"{', '.join(those)}: {what}" for what, those in alike.items()]
    title = f"pass@k, {TITLES.get(benchmark, benchmark)}"
    counts = sorted({one.problems for one in shown})
    return Chart(
        f"pass_at_k_{benchmark}",
        title,
        "",
        "; ".join(parts) + ".",
        " or ".join(f"{count} problems" for count in counts),
        ["model", "seeds", "problems", "k", "pass@k", "low", "high"],
        rows,
        [one.name for one in shown if one.seeds],
        _Curves(shown, looks(names)),
        -(-len(shown) // 2),
    )


def _what(seeds: Sequence[int]) -> str:
    """What a line is the mean of, and what its band covers."""
    if len(seeds) > 1:
        return f"mean of seeds {', '.join(map(str, seeds))}, band: 95 % interval for other seeds and other problems"
    of_one = f"seed {seeds[0]} alone" if seeds else "one model"
    return f"{of_one}, band: 95 % bootstrap interval over problems, which says nothing of other seeds"


@dataclass(frozen=True)
class _Curves:
    shown: Sequence[PassAtK]
    look_of: Mapping[str, dict[str, Any]]

    def __call__(self, figure: Figure) -> None:
        from matplotlib.ticker import PercentFormatter

        axes = figure.subplots()
        for one in self.shown:
            ks, look = list(one.by_k), self.look_of[one.name]
            means, lows, highs = zip(*one.by_k.values(), strict=True)
            axes.fill_between(ks, lows, highs, color=look["color"], alpha=0.12, linewidth=0)
            axes.plot(ks, means, label=label(one.name), **look)
        axes.set_xscale("log", base=2)
        ticks = [2**power for power in range(12) if 2**power <= max(max(one.by_k) for one in self.shown)]
        axes.set_xticks(ticks[:: -(-len(ticks) // 7)], [str(k) for k in ticks[:: -(-len(ticks) // 7)]])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.set(xlabel="samples k", ylabel="pass@k")
        legend(figure, axes)
