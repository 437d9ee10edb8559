"""One picture a probe. A condition has the same colour in all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_nemo.files import replacing
from s2l_nemo.probes.measuring.facts import Along, Space
from s2l_nemo.probes.measuring.figures import Figure, Probe
from s2l_nemo.probes.measuring.rollouts import Who
from s2l_nemo.records.plots import EXPLORER, GREY, LEARNER, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

COLORS = {Who.baseline: LEARNER, Who.hot: "#D55E00", Who.explorer: EXPLORER}
SMALL: dict[str, Any] = {"fontsize": 9, "fontweight": "normal", "color": "#666666"}


def plot_all(figures: Sequence[Figure], output: Path) -> None:
    """Draws prefix.png, covariance.png, growth.png and gamma.png into `output`."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        for draw in (prefix, covariance, growth, gamma):
            picture = draw(figures)
            with replacing(output / f"{draw.__name__}.png") as temporary:
                picture.savefig(temporary, format="png")


def prefix(figures: Sequence[Figure]) -> Picture:
    """Pr(M_t = 1) over t, with the bound (1 - p)^t."""
    mine = [one for one in figures if one.probe is Probe.prefix]
    picture, (axes,) = _panels(1)
    for who in dict.fromkeys(one.who for one in mine):
        _curve(axes, _of(mine, "Pr(M_t = 1)", who), COLORS[who], label=who.value)
        bound = _of(mine, "(1 - p)^t", who)
        axes.plot(*_line(bound), color=COLORS[who], linestyle=":", linewidth=1.2)
        sampled = _of(mine, "Pr(M_t = 1) sampled", who)
        axes.plot(*_line(sampled), "o", color=COLORS[who], markersize=3)
    axes.plot([], [], color=GREY, linestyle=":", linewidth=1.2, label="bound (1 - p)^t")
    axes.plot([], [], "o", color=GREY, markersize=3, label="sampled")
    axes.set_title("Still on the greedy trace")
    axes.set_xlabel("step t")
    axes.set_ylabel("Pr(M_t = 1)")
    axes.set_ylim(-0.02, 1.05)
    _legend(picture)
    return picture


def covariance(figures: Sequence[Figure]) -> Picture:
    """What each distance adds to the variance of a sum of scores, in both spaces."""
    mine = [one for one in figures if one.probe is Probe.covariance and one.along is Along.every]
    picture, panels = _panels(2)
    for axes, space in zip(panels, Space, strict=True):
        _bars(axes, [one for one in mine if one.space is space])
        axes.set_title(f"scores of {space.value}")
        axes.set_xlabel("distance s - t")
    panels[0].set_ylabel("added to the variance of the sum")
    panels[0].set_title("0: a random walk", loc="right", **SMALL)
    _legend(picture, panels[0])
    return picture


def growth(figures: Sequence[Figure]) -> Picture:
    """|S_l|^2 over l in logarithms, with the random walk of the same terms."""
    mine = [one for one in figures if one.probe is Probe.growth]
    picture, panels = _panels(2)
    for axes, space in zip(panels, Space, strict=True):
        here = [one for one in mine if one.space is space]
        for who in dict.fromkeys(one.who for one in here):
            (slope,) = _of(here, "slope", who)
            text = "no slope" if slope.value is None else f"slope {slope.value:.2f} [{slope.low:.2f}, {slope.high:.2f}]"
            _curve(axes, _of(here, "|S_l|^2", who), COLORS[who], label=who.value)
            axes.plot(*_line(_of(here, "random walk", who)), color=COLORS[who], linestyle="--", linewidth=1.0)
            place = 0.06 + 0.07 * list(COLORS).index(who)
            axes.text(0.97, place, text, color=COLORS[who], ha="right", transform=axes.transAxes, fontsize=9)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        axes.set_title(f"scores of {space.value}")
        axes.set_xlabel("length l")
    panels[0].plot([], [], color=GREY, linestyle="--", linewidth=1.0, label="random walk of the same terms")
    panels[0].set_ylabel("E |sum of the first l scores|^2")
    _legend(picture, panels[0])
    return picture


def gamma(figures: Sequence[Figure]) -> Picture:
    """gamma by distance, over that of a step with itself."""
    mine = [one for one in figures if one.probe is Probe.gamma and one.space is Space.parameters]
    picture, panels = _panels(2)
    titles = {Along.every: "all directions v", Along.reference: "v of the reference trace"}
    for axes, along in zip(panels, Along, strict=True):
        _bars(axes, [one for one in mine if one.along is along])
        axes.set_title(titles[along])
        axes.set_xlabel("distance s - t")
    panels[0].set_ylabel("gamma, over the sum of gamma_tt")
    return picture


def _panels(count: int) -> tuple[Picture, list[Axes]]:
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(4.4 * count if count > 1 else 6.4, 3.9))
    return picture, list(picture.subplots(1, count, squeeze=False).flat)


def _of(figures: Sequence[Figure], quantity: str, who: Who) -> list[Figure]:
    return [one for one in figures if one.quantity == quantity and one.who is who]


def _line(figures: Sequence[Figure]) -> tuple[list[float], list[float]]:
    return [_number(one.at) for one in figures], [_number(one.value) for one in figures]


def _number(value: float | None) -> float:
    """What matplotlib leaves out, if there is none."""
    return math.nan if value is None else value


def _curve(axes: Axes, figures: Sequence[Figure], color: str, label: str) -> None:
    """A line with its band."""
    places, values = _line(figures)
    low, high = [_number(one.low) for one in figures], [_number(one.high) for one in figures]
    axes.fill_between(places, low, high, color=color, alpha=0.12, linewidth=0)
    axes.plot(places, values, color=color, label=label)


def _bars(axes: Axes, figures: Sequence[Figure]) -> None:
    """Values by distance with their intervals, the conditions side by side."""
    axes.axhline(0, color=GREY, linewidth=1)
    people = list(dict.fromkeys(one.who for one in figures))
    for number, who in enumerate(people):
        shown = [one for one in _of(figures, "added by distance", who) if one.value is not None]
        shift = 0.22 * (number - (len(people) - 1) / 2)
        for place, one in enumerate(shown):
            axes.plot(
                [place + shift] * 2, [_number(one.low), _number(one.high)], color=COLORS[who], alpha=0.5, linewidth=3
            )
        places = [place + shift for place in range(len(shown))]
        axes.plot(places, _line(shown)[1], "o", color=COLORS[who], markersize=5, label=who.value)
        axes.set_xticks(range(len(shown)), [_bin(shown, place) for place in range(len(shown))])


def _bin(figures: Sequence[Figure], place: int) -> str:
    first = figures[place].at
    assert first is not None
    if place + 1 == len(figures):
        return f"{first}+"
    following = figures[place + 1].at
    assert following is not None
    return f"{first}" if following == first + 1 else f"{first}-{following - 1}"


def _legend(picture: Picture, axes: Axes | None = None) -> None:
    handles, labels = (axes or picture.axes[0]).get_legend_handles_labels()
    picture.legend(
        handles, labels, loc="outside lower center", ncols=3 if len(picture.axes) == 1 else len(labels), fontsize=9
    )
