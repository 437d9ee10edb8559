"""The tiny preset over several seeds, with and without the explorer: gain in held-out pass@1 with its interval.

    python benchmarks/seeds.py [--seeds 1 2 3] [--output docs/results/tiny.md] [--runs runs/seeds] [key=value ...]

Runs are continued or reused where they are there. Needs the tiny family (`python tools/make_tiny_family.py`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
METHODS = {"S2L-PO": [], "GRPO": ["experiment=grpo"]}


def summary_of(run: Path, seed: int, overrides: list[str]) -> dict[str, Any]:
    """Trains, unless the run is finished, and returns its summary."""
    if not (run / "summary.json").exists():
        command = [sys.executable, str(ROOT / "recipes/train_s2l.py"), *overrides]
        subprocess.run([*command, f"run.dir={run}", f"run.seed={seed}"], cwd=ROOT, check=True)
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary


def row(method: str, seed: int, summary: dict[str, Any]) -> str:
    gain = f"{summary['pass@1/difference']:+.3f}"
    interval = f"{summary['pass@1/difference_low']:+.3f} to {summary['pass@1/difference_high']:+.3f}"
    before, after = summary["pass@1/before"], summary["pass@1/after"]
    cells = [method, str(seed), f"{before:.3f}", f"{after:.3f}", gain, interval, f"{summary['seconds']:.0f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--runs", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--output", type=Path, help="write the table as Markdown")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    lines = [
        "| method | seed | pass@1 before | after | gain | 95 % paired bootstrap | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, choice in METHODS.items():
        for seed in options.seeds:
            run = options.runs / f"{method.lower()}-seed{seed}"
            lines.append(row(method, seed, summary_of(run, seed, [*choice, *options.overrides])))
    table = "\n".join(lines) + "\n"
    print(table)
    if options.output:
        options.output.write_text(table)


if __name__ == "__main__":
    main()
