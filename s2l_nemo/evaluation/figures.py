"""The last files of an evaluation: summary.json and the picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s2l_nemo.evaluation.plots import plot_pass_at_k
from s2l_nemo.evaluation.scoring import summary
from s2l_nemo.files import write_json_atomic


def write_summary(folder: Path, name: str, results: Sequence[dict[str, Any]]) -> None:
    """`pass_at_k.png`, then `summary.json`, which says that all is there."""
    plot_pass_at_k(results, folder / "pass_at_k.png")
    write_json_atomic(folder / "summary.json", summary(name, results))
