"""What a person watching an evaluation sees: its facts, progress, and a table at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from s2l_nemo.evaluation.results import BenchmarkResult, Summary
from s2l_nemo.evaluation.steps import StepCurve
from s2l_nemo.measures.statistics import Interval

PLAIN_WIDTH = 120  # columns where the output is not a terminal


def console() -> Console:
    """Standard output without markup, so that names and paths stand as they are."""
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    return Console(width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def print_facts(out: Console, title: str, facts: Mapping[str, object]) -> None:
    """A title and one aligned line per fact."""
    out.print(Text(title, style="bold"))
    margin = max(map(len, facts))
    for name, value in facts.items():
        out.print(Text.assemble("  ", (name.ljust(margin), "dim"), "  ", str(value)), soft_wrap=True)
    out.print()


def progress_bar(out: Console, *, before: str = "", after: str = "") -> Progress:
    """A bar with how many of how many, the time so far and the time left; no bar where the output is no terminal.

    `before` and `after` are texts beside it; rich fills in the fields of a task.
    """
    return Progress(
        *([TextColumn(before)] if before else []),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        *([TextColumn(after)] if after else []),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=out,
        disable=not out.is_terminal,
        expand=True,
        speed_estimate_period=24 * 3600,  # chunks may take minutes; the default forgets them after 30 s
    )


def progress(out: Console, benchmark: str, problems: int) -> Callable[[int], None]:
    """Prints a line for every batch of problems that has been graded, so that a log shows it too."""

    def say(graded: int) -> None:
        out.print(f"{benchmark}  {graded:>{len(str(problems))}}/{problems} problems graded")

    return say


def print_results(out: Console, summary: Summary) -> None:
    """Prints one line for each benchmark. Intervals are 95 % over problems."""
    table = Table(
        title=summary.name, title_style="bold", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    table.add_column("benchmark")
    for title in ("P x K", "pass@1 (95 %)", "pass@K", "majority", "tokens", "cut off", "no answer", "errors"):
        table.add_column(title, justify="right")
    for one in summary.results:
        table.add_row(
            one.benchmark,
            f"{one.problems} x {one.samples}" + ("+" if one.most_samples > one.samples else ""),
            _interval(one.pass_at_1),
            f"{100 * one.pass_at_k[one.samples].mean:.1f}",
            f"{100 * one.majority.mean:.1f}",
            "-" if one.mean_tokens is None else f"{one.mean_tokens:,.0f}",
            _percent(one.truncated_fraction),
            _percent(one.no_answer_fraction),
            str(one.grader_errors),
        )
    if len(summary.results) > 1:
        table.add_section()
        table.add_row("average", "", f"{100 * summary.average_pass_at_1:.1f}", *[""] * 6)
    out.print(table)
    for one in summary.results:
        for note in _notes(one):
            out.print(note, soft_wrap=True)


def print_curve(out: Console, curve: StepCurve) -> None:
    """Prints a line for each step: pass@1 of each benchmark with its 95 % interval over problems."""
    table = Table(
        title=f"{curve.name}: pass@1 (95 %)", title_style="bold", title_justify="left", box=None, pad_edge=False,
        padding=(0, 2, 0, 0),
    )  # fmt: skip
    table.add_column("step", justify="right")
    table.add_column("prompts", justify="right")
    benchmarks = list(dict.fromkeys(name for point in curve.points for name in point.results))
    for name in benchmarks:
        table.add_column(name, justify="right")
    for point in curve.points:
        found = [point.results.get(name) for name in benchmarks]
        shown = ["-" if one is None else _interval(one.pass_at_1) for one in found]
        table.add_row(str(point.step), f"{point.prompts:,}", *shown)
    out.print(table)


def _notes(one: BenchmarkResult) -> list[str]:
    notes = []
    if one.subset is not None:
        notes.append(f"{one.benchmark}: {one.subset}")
    if one.most_samples > one.samples:
        notes.append(
            f"{one.benchmark}: problems have {one.samples} to {one.most_samples} samples, so pass@k goes up to k = "
            f"{one.samples}"
        )
    if one.without_predictions:
        notes.append(f"{one.benchmark}: problems without predictions, which count as wrong: {one.without_predictions}")
    if one.grader_errors:
        first = "" if one.why_failed is None else f", the first with {one.why_failed!r}"
        notes.append(
            f"{one.benchmark}: answers that could not be checked and count as wrong: {one.grader_errors}{first} "
            f"(see errors in {one.benchmark}.jsonl)"
        )
    return notes


def _interval(value: Interval) -> str:
    return f"{100 * value.mean:.1f} ({100 * value.low:.1f} - {100 * value.high:.1f})"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
