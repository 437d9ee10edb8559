"""Pictures of step curves: what runs score as they are trained."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_nemo.evaluation.plots import SMALL, TITLES, label, looks, save
from s2l_nemo.evaluation.steps import StepCurve
from s2l_nemo.records.plots import STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D


class Axis(str, Enum):
    """Over what a curve is drawn."""

    steps = "steps"
    prompts = "prompts"


TITLE = {Axis.steps: "training step", Axis.prompts: "prompts seen"}


def plot_steps(curves: Sequence[StepCurve], axis: Axis, path: Path) -> None:
    """Draws pass@1 with 95 % bands. Each run is a line, each benchmark a panel, in the order of their first result."""
    import matplotlib
    from matplotlib.figure import Figure

    points = [point for curve in curves for point in curve.points]
    benchmarks = list(dict.fromkeys(name for point in points for name in point.results))
    look = looks([curve.name for curve in curves])
    columns = len(benchmarks) if len(benchmarks) <= 3 else (len(benchmarks) + 1) // 2
    rows = -(-len(benchmarks) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(4.4, 3.6 * columns), 2.8 * rows + 0.9))
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        lines: dict[str, Line2D] = {}
        for index, benchmark in enumerate(benchmarks):
            axes = panels[index]
            for curve in curves:
                lines |= _line(axes, curve, benchmark, axis, look[curve.name])
            problems, samples = _counts(curves, benchmark)
            axes.set_title(TITLES.get(benchmark, label(benchmark)))
            axes.set_title(f"{problems} x {samples}", loc="right", **SMALL)
            axes.set_ylabel("pass@1 (%)" if index % columns == 0 else "")
            axes.set_xlabel(TITLE[axis] if index + columns >= len(benchmarks) else "")
        for axes in panels[len(benchmarks) :]:
            axes.axis("off")
        shown = [name for name in look if name in lines]
        figure.legend(
            [lines[name] for name in shown],
            [label(name) for name in shown],
            loc="outside lower left",
            ncols=min(4, len(shown)),
            title="problems x samples; bands: 95 % bootstrap intervals over problems",
            title_fontproperties={"size": 9},
            alignment="left",
        )
        save(figure, path)


def _line(axes: Axes, curve: StepCurve, benchmark: str, axis: Axis, look: dict[str, Any]) -> dict[str, Line2D]:
    from matplotlib.ticker import MaxNLocator

    points = [point for point in curve.points if benchmark in point.results]
    if not points:
        return {}
    places = [point.step if axis is Axis.steps else point.prompts for point in points]
    intervals = [point.results[benchmark].pass_at_1 for point in points]
    mean, low, high = ([100 * value for value in side] for side in zip(*intervals, strict=True))
    axes.fill_between(places, low, high, color=look["color"], alpha=0.1, linewidth=0)
    for edge in (low, high):  # keeps bands apart where they overlap
        axes.plot(places, edge, color=look["color"], alpha=0.4, linewidth=0.7)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if axis is Axis.prompts:
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    (line,) = axes.plot(places, mean, **look)
    return {curve.name: line}


def _counts(curves: Sequence[StepCurve], benchmark: str) -> tuple[str, str]:
    """Problems and samples of a benchmark, as `30` or, where they differ, as `30-60`."""
    found = [point.results[benchmark] for curve in curves for point in curve.points if benchmark in point.results]
    return _range([one.problems for one in found]), _range([one.samples for one in found])


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"
