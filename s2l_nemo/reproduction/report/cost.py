"""Where the time of a step goes, by experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from s2l_nemo.evaluation.plots import COLORS, label
from s2l_nemo.measures.statistics import mean
from s2l_nemo.reproduction.report.chart import EXTRA, Cell, Chart, legend
from s2l_nemo.reproduction.report.runs import Run, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Seconds of a step by phase"
# Each phase with its metric and color. What is left of a step is `other`; validations come on top of a step.
PHASES: Mapping[str, tuple[str, str]] = {
    "explorer rollouts": ("time/rollout_explorer", COLORS[1]),
    "learner rollouts": ("time/rollout_learner", COLORS[0]),
    "exchange": ("time/exchange", EXTRA[0]),
    "grading": ("time/reward", COLORS[3]),
    "explorer filter": ("time/explorer_filter", EXTRA[1]),
    "log-probs": ("time/logprobs", COLORS[5]),
    "update": ("time/update", COLORS[2]),
    "refit": ("time/refit", COLORS[4]),
    "other": ("", EXTRA[2]),
    "validation": ("", COLORS[6]),
}


def seconds_by_phase(run: Run) -> dict[str, float]:
    """Mean seconds of a step in each phase of PHASES. A phase that a step did not need counts 0 there."""
    totals = dict.fromkeys(PHASES, 0.0)
    for line in run.metrics:
        known = {name: float(line.get(key) or 0.0) for name, (key, _) in PHASES.items() if key}
        whole = float(line.get("time/step") or 0.0)
        known["other"] = max(0.0, whole - sum(known.values()))
        known["validation"] = max(0.0, float(line.get("time/step_with_validation") or whole) - whole)
        for name, seconds in known.items():
            totals[name] += seconds
    return {name: seconds / len(run.metrics) for name, seconds in totals.items()}


def cost_chart(study: Study) -> Chart | None:
    """Stacked bars, one an experiment: the mean over all its runs that have done a step. None if none was timed."""
    by_run = {
        experiment.name: {run.seed: seconds_by_phase(run) for run in experiment.runs if run.metrics}
        for experiment in study.experiments
    }
    shown = {name: runs for name, runs in by_run.items() if runs}
    if not shown:
        return None
    bars = {name: _mean(list(runs.values())) for name, runs in shown.items()}
    used = [phase for phase in PHASES if any(bar[phase] for bar in bars.values())]
    if not used:
        return None
    rows: list[list[Cell]] = [
        [name, seed, *(spent[phase] for phase in used)] for name, runs in shown.items() for seed, spent in runs.items()
    ]
    words = "; ".join(f"{name}: mean of seeds {', '.join(map(str, runs))}" for name, runs in shown.items())
    words += "; unfinished runs count with the steps that they have."
    steps = sorted({run.last_step for run in study.runs if run.metrics})
    basis = f"{steps[0]} to {steps[-1]} steps a run" if len(steps) > 1 else f"{steps[0]} steps a run"
    columns = ["experiment", "seed", *(f"{phase} (s)" for phase in used)]
    drawing = _Bars(bars, used)
    return Chart(
        "seconds_by_phase", TITLE, "", words, basis, columns, rows, list(shown), drawing, _legend_rows(bars, used)
    )


def _mean(spent: Sequence[dict[str, float]]) -> dict[str, float]:
    return {phase: mean([one[phase] for one in spent]) or 0.0 for phase in PHASES}


def _legend_rows(bars: Mapping[str, object], used: Sequence[str]) -> int:
    """The bars take their room too: a picture of many experiments is higher."""
    return -(-len(used) // 2) + max(0, 2 * len(bars) - 8)


@dataclass(frozen=True)
class _Bars:
    bars: Mapping[str, Mapping[str, float]]
    phases: Sequence[str]

    def __call__(self, figure: Figure) -> None:
        axes = figure.subplots()
        left = [0.0] * len(self.bars)
        for phase in self.phases:
            widths = [bar[phase] for bar in self.bars.values()]
            axes.barh(range(len(widths)), widths, left=left, color=PHASES[phase][1], label=phase, height=0.7)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        axes.set_yticks(range(len(self.bars)), [label(name) for name in self.bars])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set(xlabel="seconds")
        legend(figure, axes)
