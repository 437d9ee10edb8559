"""The last files of an evaluation: summary.json and the picture."""

from __future__ import annotations

from pathlib import Path

from s2l_nemo.evaluation.plots import plot_pass_at_k
from s2l_nemo.evaluation.results import Summary
from s2l_nemo.files import write_json_atomic


def write_summary(folder: Path, summary: Summary) -> None:
    """Writes `pass_at_k.png`, then `summary.json`. The latter is a sign that all files are there."""
    plot_pass_at_k(summary.results, folder / "pass_at_k.png")
    write_json_atomic(folder / "summary.json", summary.to_json())
