"""What a person who watches the run sees: facts of the run, one line a step, and a progress bar on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from s2l_nemo.records.metrics import Value

PLAIN_WIDTH = 120  # columns of an output that is no terminal
TITLES_EVERY = 25  # lines of steps after which the titles are printed again
LEGEND = "Gw/Gs: explorer/learner samples of a group; 0-var: groups of equal rewards; right of sec: seconds by phase"


@dataclass(frozen=True)
class Column:
    """One column of the step line: its title and width, its metrics, how to show them. `-` if all of them are null."""

    title: str
    width: int
    keys: tuple[str, ...]
    show: Callable[..., str]
    style: str = ""

    def cell(self, values: Mapping[str, Value]) -> str:
        present = [value for value in (values[key] for key in self.keys) if value is not None]
        return (self.show(*present) if present else "-").rjust(self.width)


def _seconds(*values: float) -> str:
    total = sum(values)
    return f"{total:.1f}" if total < 99.95 else f"{total:.0f}"


def _number(value: float) -> str:
    """Five characters: 0.412, 12.35, 123.5, 1e+07."""
    size = abs(value)
    return next(
        (f"{value:.{n}f}" for n, below in ((3, 9.9995), (2, 99.995), (1, 999.95)) if size < below), f"{value:.0e}"
    )


def _small(value: float) -> str:
    """At most seven characters. Small values are in scientific notation: -0.0123, 1.2e-4."""
    if 1e-3 <= abs(value) < 9.99995:
        return f"{value:.4f}"
    return "0" if value == 0 else f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e+")


FIGURES = (
    Column("alpha", 5, ("alpha",), "{:.2f}".format),
    Column("Gw/Gs", 5, ("group/explorer", "group/learner"), "{:.0f}/{:.0f}".format),
    Column("reward", 6, ("reward/mean",), _number, "bold"),
    Column("expl.", 5, ("reward/explorer",), _number, "yellow"),
    Column("learn", 5, ("reward/learner",), _number, "cyan"),
    Column("loss", 7, ("loss",), _small),
    Column("KL", 7, ("kl",), _small),
    Column("grad", 5, ("grad_norm",), _number),
    Column("len", 4, ("response_length/mean",), "{:.0f}".format),
    Column("0-var", 5, ("group/zero_variance_fraction",), "{:.0%}".format),
    Column("sec", 5, ("time/step",), _seconds, "bold"),
)
PHASES = (
    Column("roll", 4, ("time/rollout_explorer", "time/rollout_learner"), _seconds, "dim"),
    Column("rew.", 4, ("time/reward",), _seconds, "dim"),
    Column("logp", 4, ("time/logprobs",), _seconds, "dim"),
    Column("upd.", 4, ("time/update",), _seconds, "dim"),
    Column("sync", 4, ("time/refit",), _seconds, "dim"),
)


class StepConsole:
    """Prints to `stream` (default: standard output) for a run of `total_steps` that starts after `start_step`.

    A terminal gets colour and a progress bar with the time left. Any other output gets plain lines of at most 120
    columns. A narrow terminal gets no columns of phases. Use it as a context manager: leaving it ends the bar.
    """

    def __init__(
        self, total_steps: int, *, start_step: int = 0, stream: TextIO | None = None, width: int | None = None
    ) -> None:
        stream = stream or sys.stdout
        terminal = stream.isatty()
        self._console = Console(
            file=stream,
            width=width or (None if terminal else PLAIN_WIDTH),
            force_terminal=terminal,
            highlight=False,
            markup=False,
            emoji=False,
        )
        self._total = total_steps
        self._step_width = max(2 * len(str(total_steps)) + 1, len("step"))
        self._gap, self._columns = self._layout(self._console.width)
        self._lines = 0
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not terminal,
            expand=True,
            refresh_per_second=2,
            speed_estimate_period=24 * 3600,  # the default is 30 s, and steps may take minutes
        )
        self._task = self._progress.add_task("training", total=total_steps, completed=start_step)

    def _layout(self, width: int) -> tuple[str, tuple[Column, ...]]:
        for gap, columns in (("  ", FIGURES + PHASES), (" ", FIGURES + PHASES)):
            if self._step_width + sum(len(gap) + column.width for column in columns) <= width:
                return gap, columns
        return " ", FIGURES

    def header(self, title: str, facts: Mapping[str, object]) -> None:
        """Prints the title, and the facts of the run in aligned lines."""
        self._print(Text(title, style="bold"))
        margin = max(map(len, facts), default=0)
        for name, value in facts.items():
            self._print(Text.assemble("  ", (name.ljust(margin), "dim"), "  ", str(value)))
        self._print(Text(LEGEND, style="dim"))
        self._print(Text())

    def message(self, text: str) -> None:
        """Prints a line between those of the steps."""
        self._print(Text(text))

    def step(self, step: int, values: Mapping[str, Value]) -> None:
        """Prints the line of a step from its metrics and moves the bar. Raises KeyError for a missing metric."""
        if self._lines % TITLES_EVERY == 0:
            titles = [column.title.rjust(column.width) for column in self._columns]
            self._print(Text(self._gap.join(["step".rjust(self._step_width), *titles]), style="dim"))
        self._lines += 1
        line = Text(f"{step}/{self._total}".rjust(self._step_width))
        for column in self._columns:
            line.append(self._gap).append(column.cell(values), style=column.style)
        self._print(line)
        self._progress.update(self._task, completed=step)

    def _print(self, text: Text) -> None:
        self._console.print(text)

    def __enter__(self) -> StepConsole:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()
