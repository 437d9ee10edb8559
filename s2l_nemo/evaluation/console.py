"""What a person watching an evaluation sees: its facts, progress, and a table at the end."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

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


def print_results(out: Console, name: str, results: Sequence[dict[str, Any]]) -> None:
    """One line a benchmark; intervals are 95 % over problems."""
    table = Table(title=name, title_style="bold", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("benchmark")
    for title in ("P x K", "pass@1 (95 %)", "pass@K", "majority", "tokens", "cut off", "no answer", "errors"):
        table.add_column(title, justify="right")
    for one in results:
        K = one["samples"]
        shape = f"{one['problems']} x {K}" + ("+" if one["most_samples"] > K else "")
        table.add_row(
            one["benchmark"],
            shape,
            _interval(one["pass@1"]),
            f"{100 * one['pass@k'][str(K)]['mean']:.1f}",
            f"{100 * one[f'majority@{K}']['mean']:.1f}",
            "-" if one["mean_tokens"] is None else f"{one['mean_tokens']:,.0f}",
            _percent(one["truncated_fraction"]),
            _percent(one["no_answer_fraction"]),
            str(one["grader_errors"]),
        )
    if len(results) > 1:
        average = sum(one["pass@1"]["mean"] for one in results) / len(results)
        table.add_section()
        table.add_row("average", "", f"{100 * average:.1f}", *[""] * 6)
    out.print(table)
    for one in results:
        for note in _notes(one):
            out.print(note, soft_wrap=True)


def _notes(one: dict[str, Any]) -> list[str]:
    notes = []
    K, most, missing = one["samples"], one["most_samples"], one["without_predictions"]
    if most > K:
        notes.append(f"{one['benchmark']}: problems have {K} to {most} samples, so pass@k goes up to k = {K}")
    if missing:
        notes.append(f"{one['benchmark']}: problems without predictions, which count as wrong: {missing}")
    if one["grader_errors"]:
        notes.append(
            f"{one['benchmark']}: answers that could not be checked and count as wrong: {one['grader_errors']} "
            f"(see errors in {one['benchmark']}.jsonl)"
        )
    return notes


def _interval(value: Mapping[str, float]) -> str:
    return f"{100 * value['mean']:.1f} ({100 * value['low']:.1f} - {100 * value['high']:.1f})"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
