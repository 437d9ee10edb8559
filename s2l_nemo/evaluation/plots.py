"""Pictures of evaluations: pass@k curves of several models, and the diversity table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_nemo.evaluation.results import BenchmarkResult
from s2l_nemo.files import replacing
from s2l_nemo.measures.statistics import Interval
from s2l_nemo.records.plots import STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from s2l_nemo.evaluation.diversity_table import DiversityRow

# Okabe-Ito without yellow, which is too light for a line. Beyond seven models the line style changes too.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#333333")
DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
TITLES = {
    "aime24": "AIME 2024",
    "aime25": "AIME 2025",
    "math500": "MATH-500",
    "olympiadbench": "OlympiadBench",
    "commonsenseqa": "CommonsenseQA",
}
DIVERSITY = {
    "self_bleu": ("Self-BLEU", "← more diverse"),
    "edit": ("Edit diversity", "more diverse →"),
    "unique": ("Unique answers", "more diverse →"),
}
SMALL: dict[str, Any] = {"fontsize": 9, "fontweight": "normal", "color": "#666666"}


def plot_pass_at_k(results: Sequence[BenchmarkResult], path: Path) -> None:
    """Draws pass@k over k with 95 % bands. Each model is a line, each benchmark a panel.

    Models and benchmarks come in the order of their first result.
    """
    import matplotlib
    from matplotlib.figure import Figure

    benchmarks = list(dict.fromkeys(result.benchmark for result in results))
    look_of = looks([result.name for result in results])
    columns = len(benchmarks) if len(benchmarks) <= 3 else (len(benchmarks) + 1) // 2
    rows = -(-len(benchmarks) // columns)
    is_free = len(benchmarks) < rows * columns  # the last panel of the grid
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.3 * columns + (0.4 if is_free else 2.6), 2.8 * rows + 0.5))
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        lines: dict[str, Line2D] = {}
        for index, (axes, benchmark) in enumerate(zip(panels, benchmarks, strict=False)):
            shown = [result for result in results if result.benchmark == benchmark]
            lines |= _curves(axes, shown, look_of)
            axes.set_title(TITLES.get(benchmark, label(benchmark)))
            axes.set_title(f"{shown[0].problems:,} problems", loc="right", **SMALL)
            axes.set_ylabel("pass@k (%)" if index % columns == 0 else "")
            axes.set_xlabel("samples k" if index + columns >= len(benchmarks) else "")
        legend: dict[str, Any] = {
            "handles": [lines[name] for name in look_of],
            "labels": [label(name) for name in look_of],
            "title": "bands: 95 % bootstrap\nintervals over problems",
            "title_fontproperties": {"size": 9},
            "alignment": "left",
        }
        if is_free:
            panels[-1].axis("off")
            panels[-1].legend(loc="center left", **legend)
        else:
            figure.legend(loc="outside right center", **legend)
        save(figure, path)


def plot_diversity(rows: Sequence[DiversityRow], path: Path) -> None:
    """Draws the diversity table with its 95 % intervals. Each metric is a panel, each model a row.

    `rows` stand from top to bottom.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    look_of = looks([row.name for row in rows])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 1.6 + 0.42 * len(rows)))
        for axes, (metric, (title, direction)) in zip(
            figure.subplots(1, 3, sharey=True), DIVERSITY.items(), strict=True
        ):
            for height, row in enumerate(rows):
                _interval(axes, getattr(row, metric), height, look_of[row.name]["color"])
            axes.set_title(title)
            axes.set_xlabel(direction, **SMALL)
            axes.set_ylim(len(rows) - 0.5, -0.6)
            axes.margins(x=0.15)
            axes.grid(visible=False, axis="y")
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
            axes.set_yticks(range(len(rows)), [label(row.name) for row in rows])
            axes.xaxis.set_major_locator(MaxNLocator(4))
        first = rows[0]
        figure.supxlabel(
            f"{TITLES.get(first.benchmark, label(first.benchmark))}, {first.problems} problems, K = "
            f"{first.samples} samples; lines are 95 % bootstrap intervals over problems",
            fontsize=9,
        )
        save(figure, path)


def looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and dashes of every model, the same in all panels."""
    return {
        name: {
            "color": COLORS[index % len(COLORS)],
            "marker": MARKERS[index % len(MARKERS)],
            "linestyle": DASHES[index // len(COLORS) % len(DASHES)],
        }
        for index, name in enumerate(dict.fromkeys(names))
    }


def _curves(axes: Axes, results: Sequence[BenchmarkResult], look_of: Mapping[str, dict[str, Any]]) -> dict[str, Line2D]:
    """Draws a panel and returns the line of every model in it."""
    lines: dict[str, Line2D] = {}
    ticks: set[int] = set()
    for result in results:
        look = look_of[result.name]
        ks = sorted(result.pass_at_k)
        bands = [result.pass_at_k[k] for k in ks]
        mean, low, high = ([100 * value for value in side] for side in zip(*bands, strict=True))
        axes.fill_between(ks, low, high, color=look["color"], alpha=0.1, linewidth=0)
        for edge in (low, high):  # keeps bands apart where they overlap
            axes.plot(ks, edge, color=look["color"], alpha=0.4, linewidth=0.7)
        (lines[result.name],) = axes.plot(ks, mean, **look)
        ticks.update(k for k in ks if k & (k - 1) == 0)
    axes.set_xscale("log", base=2)
    shown = sorted(ticks)[:: -(-len(ticks) // 7)]  # at most seven
    axes.set_xticks(shown, [str(k) for k in shown])
    axes.minorticks_off()
    return lines


def label(text: str) -> str:
    """As matplotlib shows it unchanged: `$` would begin a formula, a leading `_` hides an entry of a legend.

    Bytes of a folder's name that are no text, which it cannot draw, are question marks.
    """
    text = text.replace("$", r"\$").encode(errors="replace").decode()
    return f" {text}" if text.startswith("_") else text


def _interval(axes: Axes, band: Interval, height: int, color: str) -> None:
    axes.plot([band.low, band.high], [height, height], color=color, alpha=0.45, linewidth=5)
    axes.plot(band.mean, height, "o", color=color, markersize=7)
    axes.annotate(f"{band.mean:.3f}", (band.mean, height), (0, 7), textcoords="offset points", ha="center", fontsize=9)


def save(figure: Figure, path: Path) -> None:
    """Replaces the picture as a whole."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
