"""Plots of one run. They need only `metrics.jsonl` and `summary.json`. A null leaves a gap."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_nemo.records.directory import RunDir
from s2l_nemo.records.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe-Ito colours, which colour-blind readers can tell apart. A model has the same colour in every plot.
EXPLORER, LEARNER, MIXED, GREY = "#E69F00", "#0072B2", "#333333", "#999999"
PHASES = (
    ("time/rollout_explorer", "explorer rollouts", EXPLORER),
    ("time/rollout_learner", "learner rollouts", LEARNER),
    ("time/exchange", "exchange", "#666666"),
    ("time/reward", "grading", "#CC79A7"),
    ("time/explorer_filter", "explorer filter", "#F0E442"),
    ("time/logprobs", "log-probs", "#56B4E9"),
    ("time/update", "update", "#009E73"),
    ("time/refit", "refit", "#D55E00"),
)
FLOPS = "total/flops"
SEVERAL = ("#D55E00", "#CC79A7", "#009E73", "#F0E442", "#000000")  # of explorers, one after the other
STYLE: dict[Any, Any] = {
    "figure.figsize": (7.2, 4.2),
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.12,
    "figure.constrained_layout.h_pad": 0.1,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E5E5E5",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
    "legend.frameon": False,
}


class _Series:
    """The metrics by column, as floats with NaN for null, and the summary of the run, which may be empty."""

    def __init__(self, metrics: Sequence[dict[str, Any]], summary: dict[str, Any]) -> None:
        self._metrics = metrics
        self.summary = summary
        self.steps = [values["step"] for values in metrics]
        few = len(metrics) <= 60  # with more, markers and gaps between bars would run together
        self.marker = "o" if few else ""
        self.bar_style: dict[str, Any] = {"width": 0.8} if few else {"width": 1.0, "antialiased": False}

    def __getitem__(self, key: str) -> list[float]:
        return [math.nan if values.get(key) is None else float(values[key]) for values in self._metrics]

    def explorers(self) -> list[tuple[str, str]]:
        """Name and color of each explorer, if there are several."""
        names = [key.removeprefix("pass@G/") for key in self._metrics[0] if key.startswith("pass@G/")]
        several = [name for name in names if name not in ("learner", "explorer")]
        return [(name, SEVERAL[k % len(SEVERAL)]) for k, name in enumerate(several)]

    def validation_sets(self) -> list[tuple[str, str]]:
        """Name and color of each benchmark that validations asked, in any step."""
        keys = dict.fromkeys(key for values in self._metrics for key, value in values.items() if value is not None)
        parts = [key.split("/") for key in keys]
        names = [part[1] for part in parts if len(part) == 3 and part[0] == "validation" and part[2] == "pass@1"]
        return [(name, SEVERAL[k % len(SEVERAL)]) for k, name in enumerate(names)]

    def has(self, key: str) -> bool:
        """Whether any step has this value."""
        return not all(map(math.isnan, self[key]))

    def plot(self, axes: Axes, key: str, *, scale: float = 1.0, over: str | None = None, **style: Any) -> None:
        """Draws a line over the steps or another value, or nothing if the run never had this one."""
        if self.has(key):
            xs = self.steps if over is None else self[over]
            axes.plot(xs, [scale * value for value in self[key]], **{"marker": self.marker, **style})

    def stack(
        self, axes: Axes, values: Sequence[float], bottom: Sequence[float], color: str, label: str
    ) -> list[float]:
        """Draws bars on top of `bottom` and returns their tops. NaN counts as 0. If all are 0, nothing is drawn."""
        heights = [0.0 if math.isnan(value) else value for value in values]
        if any(heights):
            axes.bar(self.steps, heights, bottom=bottom, color=color, label=label, **self.bar_style)
        axes.margins(x=0.01)
        return [below + height for below, height in zip(bottom, heights, strict=True)]


def plot_run(run_dir: RunDir) -> list[Path]:
    """Draws the run into `plots/` and returns the files. There are none before the first step."""
    import matplotlib
    from matplotlib.figure import Figure

    metrics = read_metrics(run_dir.metrics)
    if not metrics:
        return []
    summary = json.loads(run_dir.summary.read_text(encoding="utf-8")) if run_dir.summary.exists() else {}
    series = _Series(metrics, summary)
    run_dir.plots.mkdir(exist_ok=True)
    paths = []
    # Without pyplot a `Figure` needs no window system and no global state, whatever backend is configured.
    with matplotlib.rc_context(STYLE):
        for name, draw in _PLOTS.items():
            if draw is _over_flops and not series.has(FLOPS):  # runs of earlier versions did not count them
                continue
            figure = Figure(figsize=(7.2, 5.6) if draw is _optimization else None)
            draw(figure, series)
            for axes in figure.axes if draw is not _over_flops else []:
                _step_axis(axes)
            paths.append(run_dir.plots / f"{name}.png")
            figure.savefig(paths[-1])
    return paths


def _step_axis(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    position = axes.get_subplotspec()
    if position is None or position.is_last_row():
        axes.set_xlabel("training step")


def _validations(series: _Series) -> dict[int, tuple[float, float, float]]:
    """pass@1 with the ends of its interval after each step that has it, and before training; steps ascending."""
    key = "validation/pass@1"
    points = {
        step: (value, low, high)
        for step, value, low, high in zip(
            series.steps, series[key], series[f"{key}_low"], series[f"{key}_high"], strict=True
        )
        if not math.isnan(value)
    }
    for step, moment in ((0, "before"), (series.steps[-1], "after")):
        mean = series.summary.get(f"pass@1/{moment}")
        if step not in points and mean is not None:
            band = [series.summary.get(f"pass@1/{moment}_{end}") for end in ("low", "high")]
            low, high = (math.nan if end is None else end for end in band)
            points[step] = (mean, low, high)
    return dict(sorted(points.items()))


def _pass_at_1(figure: Figure, series: _Series) -> None:
    points = _validations(series)
    steps = list(points)
    means, lows, highs = ([points[step][i] for step in steps] for i in range(3))
    axes = figure.subplots()
    axes.plot(steps, means, marker="o", color=LEARNER, label="learner")
    if any(not math.isnan(low) for low in lows):
        axes.fill_between(steps, lows, highs, color=LEARNER, alpha=0.18, linewidth=0, label="95 % bootstrap interval")
    for name, color in series.validation_sets():
        before = series.summary.get(f"{name}/pass@1/before")
        pairs = zip([0, *series.steps], [before, *series[f"validation/{name}/pass@1"]], strict=True)
        places = [(step, value) for step, value in pairs if value is not None and not math.isnan(value)]
        axes.plot(*zip(*places, strict=True), marker="o", color=color, label=name, linewidth=1.2)
    axes.set(title="Held-out prompts", ylabel="pass@1")
    if steps:
        axes.legend(loc="lower right")


def _reward(figure: Figure, series: _Series) -> None:
    axes = figure.subplots()
    series.plot(axes, "reward/mean", color=MIXED, label="whole group", linewidth=1.2, linestyle="--", marker="")
    series.plot(axes, "reward/explorer", color=EXPLORER, label="explorer")
    series.plot(axes, "reward/learner", color=LEARNER, label="learner")
    for name, color in series.explorers():
        series.plot(axes, f"reward/{name}", color=color, label=name, linewidth=1.2)
    axes.set(title="Training reward by sampler", ylabel="mean reward")
    axes.legend(loc="best")


def _schedule(figure: Figure, series: _Series) -> None:
    share, axes = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
    series.plot(share, "alpha", color=MIXED)
    share.set(title="Explorer share of a group", ylabel="scheduled $\\alpha$", ylim=(-0.05, 1.05))
    top = [0.0] * len(series.steps)
    for name, color in series.explorers():
        top = series.stack(axes, series[f"group/{name}"], top, color, name)
    if not series.explorers():
        top = series.stack(axes, series["group/explorer"], top, EXPLORER, "explorer ($G_w$)")
    series.stack(axes, series["group/learner"], top, LEARNER, "learner ($G_s$)")
    axes.set(ylabel="samples per group")
    axes.grid(visible=False, axis="x")
    figure.legend(loc="outside lower center", ncols=4)


def _response_length(figure: Figure, series: _Series) -> None:
    length, truncated = figure.subplots(2, 1, sharex=True)
    series.plot(length, "response_length/mean", color=MIXED)
    length.set(title="Response length", ylabel="mean (tokens)")
    series.plot(truncated, "response_length/truncated_fraction", scale=100, color=MIXED)
    truncated.set(ylabel="cut at the limit (%)")
    truncated.set_ylim(bottom=0)


def _optimization(figure: Figure, series: _Series) -> None:
    panels = (
        ("kl", "KL to the reference (nats per token)"),
        ("entropy", "entropy (nats per token)"),
        ("clip_fraction", "clipped tokens (%)"),
        ("grad_norm", "gradient norm before clipping"),
    )
    for axes, (key, title) in zip(figure.subplots(2, 2, sharex=True).flat, panels, strict=True):
        series.plot(axes, key, scale=100 if title.endswith("(%)") else 1, color=LEARNER)
        axes.set_title(title, fontsize=10, fontweight="normal")
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]) if key == "kl" else 0)


def _over_flops(figure: Figure, series: _Series) -> None:
    reward, right = figure.subplots(2, 1, sharex=True)
    series.plot(reward, "reward/mean", over=FLOPS, color=MIXED, label="whole group", linestyle="--", marker="")
    series.plot(reward, "reward/learner", over=FLOPS, color=LEARNER, label="learner")
    reward.set(title="What came of what was computed", ylabel="training reward")
    reward.legend(loc="best")
    points = _validations(series)
    spent = {0: 0.0, **dict(zip(series.steps, series[FLOPS], strict=True))}
    right.plot([spent[step] for step in points], [mean for mean, _, _ in points.values()], marker="o", color=LEARNER)
    right.set(ylabel="pass@1, held out", xlabel="FLOP of the run so far, sampling and training")


def _step_time(figure: Figure, series: _Series) -> None:
    axes = figure.subplots()
    top = [0.0] * len(series.steps)
    for key, label, color in PHASES:
        top = series.stack(axes, series[key], top, color, label)
    rest = [max(0.0, total - measured) for total, measured in zip(series["time/step"], top, strict=True)]
    series.stack(axes, rest, top, GREY, "other")
    axes.set(title="Time of a step", ylabel="seconds")
    axes.grid(visible=False, axis="x")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5))


_PLOTS = {
    "pass_at_1": _pass_at_1,
    "reward": _reward,
    "schedule": _schedule,
    "response_length": _response_length,
    "optimization": _optimization,
    "step_time": _step_time,
    "over_flops": _over_flops,
}
