"""probe.json, probe.csv, and the tables that a person sees."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from s2l_nemo.files import replacing, write_json_atomic
from s2l_nemo.probes.measuring.facts import Along, Space
from s2l_nemo.probes.measuring.figures import Figure, Probe
from s2l_nemo.probes.measuring.rollouts import Who

NOTES = (
    "Intervals: 95 % bootstrap over prompts, expanded for few of them.",
    "Scores u_t are those of the learner at temperature 1, whoever sampled. Space logits: u_t = e_a - pi. Space "
    "parameters: all of theta.",
    "At temperature 1 the learner's own scores have mean 0 given the prefix, so that its cross-step covariances are 0, "
    "its growth is a random walk's, and its drift is 0, whatever the prefixes do.",
    "added by distance: twice the covariances at s - t in the bin over the sum of variances; 0 for a random walk.",
    "gamma has the size of the perturbation squared, which is a choice (key scale); its signs and shares have not.",
)


def write_report(output: Path, figures: Sequence[Figure], facts: Mapping[str, object]) -> None:
    """Writes both files into `output`, which is made if it is not there."""
    output.mkdir(parents=True, exist_ok=True)
    rows = [figure.to_json() for figure in figures]
    write_json_atomic(output / "probe.json", {**facts, "notes": NOTES, "figures": rows})
    with replacing(output / "probe.csv") as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def print_tables(out: Console, figures: Sequence[Figure]) -> None:
    """One table a probe: single figures, and for curves the last value."""
    out.print(prefix_table(figures), "", covariance_table(figures), "", growth_table(figures), "", sep="\n")
    out.print(gamma_table(figures), "", *NOTES, sep="\n")


def prefix_table(figures: Sequence[Figure]) -> Table:
    """Decay of the prefix match."""
    table = _table("1. Prefix match with the greedy trace (Eqs. 7 to 10)", "sampled by")
    mine = [one for one in figures if one.probe is Probe.prefix]
    middle = _middle([one.at for one in mine if one.at is not None])
    columns = {
        f"Pr(M_{middle} = 1)": ("Pr(M_t = 1)", middle),
        "sampled": ("Pr(M_t = 1) sampled", middle),
        f"(1 - p)^{middle}": ("(1 - p)^t", middle),
        "smallest p": ("smallest deviation p", None),
        "mean rate": ("deviation per step", None),
    }
    _add_figures(table, columns)
    for who in _who(mine):
        cells = [_cell(_find(mine, name, who, at=at)) for name, at in columns.values()]
        table.add_row(who.value, *cells)
    return table


def covariance_table(figures: Sequence[Figure]) -> Table:
    """Cross-step covariances and their bound."""
    table = _table("2. Cross-step covariance (Eq. 17, Cor. E.3)", "sampled by", "space")
    _add_figures(table, ("added, all v", "added, v of reference", "B", "most of bound", "bound says nothing"))
    mine = [one for one in figures if one.probe is Probe.covariance]
    for who in _who(mine):
        silent = _find(mine, "share of steps with 5 Pr(M_t = 0) >= 1", who)
        for space in Space:
            table.add_row(
                who.value,
                space.value,
                *(_cell(_find(mine, "added by all distances", who, space, along)) for along in Along),
                _cell(_find(mine, "B", who, space)),
                _cell(_find(mine, "largest |Cov| / bound", who, space)),
                _cell(silent),
            )
    return table


def growth_table(figures: Sequence[Figure]) -> Table:
    """Growth of squared sums."""
    table = _table("3. Growth of |sum u_t|^2 with length (Eqs. 16, 18; E.2)", "sampled by", "space")
    mine = [one for one in figures if one.probe is Probe.growth]
    columns = {
        "slope": "slope",
        "of a random walk": "slope of a random walk",
        "over it": "slope over a random walk",
        "ratio to it": "ratio to a random walk",
        "drift": "share of the drift",
    }
    _add_figures(table, columns)
    for who in _who(mine):
        for space in Space:
            table.add_row(who.value, space.value, *(_cell(_find(mine, one, who, space)) for one in columns.values()))
    return table


def gamma_table(figures: Sequence[Figure]) -> Table:
    """Hessian alignment."""
    table = _table("4. Hessian alignment gamma on the baseline's rollouts (Prop. E.4)", "figure", "equation")
    _add_figures(table, ("value",))
    for one in figures:
        if one.probe is Probe.gamma and one.at is None:
            along = "" if one.along is None else f", v: {one.along.value}"
            table.add_row(f"{one.quantity}{along}", one.equation, _cell(one))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_style="bold", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column)
    return table


def _add_figures(table: Table, titles: Iterable[str]) -> None:
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)


def _who(figures: Sequence[Figure]) -> list[Who]:
    return list(dict.fromkeys(one.who for one in figures))


def _middle(steps: Sequence[int]) -> int:
    """The step of the curve closest to half of its last one."""
    return min(set(steps), key=lambda step: (abs(step - max(steps) / 2), step))


def _find(
    figures: Sequence[Figure],
    quantity: str,
    who: Who,
    space: Space | None = None,
    along: Along | None = None,
    at: int | None = None,
) -> Figure | None:
    wanted = (quantity, who, space, along, at)
    return next((one for one in figures if (one.quantity, one.who, one.space, one.along, one.at) == wanted), None)


def _cell(figure: Figure | None) -> str:
    if figure is None or figure.value is None:
        return "-"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.2g}"
    return f"{figure.value:.2g} [{figure.low:.2g}, {figure.high:.2g}]"
