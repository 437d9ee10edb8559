"""One picture of the report: what it shows, the table behind it, and how it becomes SVG, PNG and CSV."""

from __future__ import annotations

import csv
import html
import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_nemo.evaluation.plots import COLORS, label, looks
from s2l_nemo.files import TEMPORARY
from s2l_nemo.records.plots import STYLE
from s2l_nemo.reproduction.report.curves import AXIS_TITLES, Axis, Band, Curve, seeds_in_words
from s2l_nemo.reproduction.report.svg import inline_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Cell = str | int | float | None
INK, MUTED, LINES = "#1f2328", "#59636e", "#e4e6ea"
EXTRA = ("#666666", "#f0e442", "#999999")  # of phases that the colors of models do not have
# Every color that a picture may have, and the CSS variable that stands for it in the page.
VARIABLES: Mapping[str, str] = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINES: "var(--line)",
    **{color: f"var(--c{k})" for k, color in enumerate((*COLORS, *EXTRA))},
}
_LOOK: dict[Any, Any] = {
    **STYLE,
    "figure.dpi": 200,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelpad": 7,
    "svg.fonttype": "none",
    "svg.hashsalt": "s2l",  # the same figures give the same bytes
    "grid.color": LINES,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color", "axes.edgecolor"), MUTED),
}
WIDTH, HEIGHT, LEGEND_ROW = 4.4, 2.75, 0.19  # inches: on a phone the text of a picture is as large as a caption


@dataclass(frozen=True)
class Chart:
    """A picture. `draw` gets an empty figure; `legend` says how many rows its legend has.

    `basis` says how many problems; `seeds` which runs a line stands for, and what a band is.
    """

    slug: str
    title: str
    note: str
    seeds: str
    basis: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    experiments: Sequence[str]
    draw: Callable[[Figure], None]
    legend: int = 1


@dataclass(frozen=True)
class Drawn:
    """A chart with its SVG for the page, and the names of its files, relative to the page."""

    chart: Chart
    svg: str
    png: str
    csv: str


def draw(chart: Chart, folder: Path) -> Drawn:
    """Writes SLUG.png and SLUG.csv into the folder beside the page, and returns the picture for the page."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_LOOK):
        figure = Figure(figsize=(WIDTH, HEIGHT + LEGEND_ROW * chart.legend))
        chart.draw(figure)
        figure.axes[0].set_title(label(textwrap.fill(chart.title, 52)))
        picture = io.BytesIO()
        figure.savefig(picture, format="png")
        figure.axes[0].set_title("")  # the page has it in the caption
        svg = inline_svg(figure, chart.slug, VARIABLES, html.escape(chart.title))
    for name, content in (
        (f"{chart.slug}.png", picture.getvalue()),
        (f"{chart.slug}.csv", to_csv(chart).encode(errors="replace")),
    ):
        # All or nothing, but no wait for the disk: they can be made again.
        (folder / f"{TEMPORARY}{name}").write_bytes(content)
        (folder / f"{TEMPORARY}{name}").replace(folder / name)
    return Drawn(chart, svg, f"{folder.name}/{chart.slug}.png", f"{folder.name}/{chart.slug}.csv")


def to_csv(chart: Chart) -> str:
    """The table behind the picture. Nothing is rounded, None is empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(chart.columns)
    writer.writerows(chart.rows)
    return buffer.getvalue()


def line_chart(
    slug: str,
    title: str,
    y_title: str,
    found: Sequence[Curve],
    *,
    axis: Axis = Axis.steps,
    note: str = "",
    basis: str = "",
    names: Sequence[str] = (),
    is_share: bool = False,
) -> Chart:
    """Curves with their bands over seeds. `names` are all experiments of the report: each keeps its color."""
    columns, rows = _table(found, axis)
    drawing = _Lines(found, axis, y_title, is_share, looks(list(names) or [one.experiment for one in found]))
    shown = list(dict.fromkeys(curve.experiment for curve in found))
    rows_of_legend = -(-len(found) // _columns([curve.short_name for curve in found]))
    words = seeds_in_words(found)
    return Chart(slug, title, note, words, basis, columns, rows, shown, drawing, rows_of_legend)


@dataclass(frozen=True)
class _Lines:
    curves: Sequence[Curve]
    axis: Axis
    y_title: str
    is_share: bool
    look_of: Mapping[str, dict[str, Any]]

    def __call__(self, figure: Figure) -> None:
        axes = figure.subplots()
        for curve in self.curves:
            self._curve(axes, curve)
        axes.set(xlabel=AXIS_TITLES[self.axis], ylabel=self.y_title)
        format_x(axes, self.axis)
        if self.is_share:
            from matplotlib.ticker import PercentFormatter

            bottom, top = axes.get_ylim()
            axes.set_ylim(max(bottom, -0.04), min(top, 1.04))  # where all are equal, matplotlib shows a share below 0
            axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        legend(figure, axes)

    def _curve(self, axes: Axes, curve: Curve) -> None:
        look = self.look_of[curve.experiment]
        xs, ys = [point.x for point in curve.points], [point.mean for point in curve.points]
        if not curve.is_finished:
            look = {**look, "linestyle": (0, (1, 1.4)), "linewidth": 1.2, "marker": "." if len(xs) == 1 else ""}
        if curve.band is not Band.none:
            lows, highs = [point.low for point in curve.points], [point.high for point in curve.points]
            axes.fill_between(xs, lows, highs, color=look["color"], alpha=0.15, linewidth=0)
        marks = {} if len(xs) <= 30 else {"marker": ""}
        axes.plot(xs, ys, label=label(curve.short_name), **{**look, "markersize": 3.2, **marks})


def legend(figure: Figure, axes: Axes) -> None:
    """Names below the picture, in as many columns as fit."""
    handles, names = axes.get_legend_handles_labels()
    look: dict[str, Any] = {"fontsize": 8.5, "handlelength": 2.2, "borderaxespad": 0.2, "borderpad": 0.2}
    figure.legend(handles, names, loc="outside lower left", ncols=_columns(names), **look)


def format_x(axes: Axes, axis: Axis) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5, integer=axis is not Axis.flops, min_n_ticks=1))
    if axis in (Axis.prompts, Axis.tokens):
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))


def _columns(names: Sequence[str]) -> int:
    longest = max(map(len, names), default=0)
    return 1 if longest > 28 else 2 if longest > 13 else 3


def _table(found: Sequence[Curve], axis: Axis) -> tuple[list[str], list[list[Cell]]]:
    seeds = sorted({seed for curve in found for seed in curve.seeds})
    place = [] if axis is Axis.steps else [AXIS_TITLES[axis]]
    columns = ["experiment", "finished", "step", *place, "mean of seeds", "band", "from", "to"]
    rows: list[list[Cell]] = []
    for curve in found:
        for point in curve.points:
            at: list[Cell] = [point.x] if place else []
            of_seeds = [point.by_seed.get(seed) for seed in seeds]
            ends: list[Cell] = [None, None] if curve.band is Band.none else [point.low, point.high]
            finished = "yes" if curve.is_finished else "no"
            rows.append([curve.experiment, finished, point.step, *at, point.mean, curve.band.value, *ends, *of_seeds])
    return [*columns, *(f"seed {seed}" for seed in seeds)], rows


def with_slugs(charts: Sequence[Chart]) -> list[Chart]:
    """The same with names that are all different, as files and as anchors: letters, digits, `_` and `-` only."""
    taken: dict[str, int] = {}
    named = []
    for chart in charts:
        plain = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in chart.slug)
        taken[plain] = taken.get(plain, 0) + 1
        named.append(replace(chart, slug=plain if taken[plain] == 1 else f"{plain}-{taken[plain]}"))
    return named
