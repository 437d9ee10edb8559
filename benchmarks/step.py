"""Measures where the time of a training step goes: the median of each phase in a short run of the tiny preset.

    python benchmarks/step.py [--steps 12] [key=value ...]

Needs the tiny family (`python tools/make_tiny_family.py`). "Outside" is the time of a step in
none of the phases. The first step warms up and is left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from s2l_nemo.records.metrics import read_metrics
from s2l_nemo.trainer.clock import PHASES as ALL_PHASES

PHASES = ALL_PHASES[1:]  # without the first, rollout, which contains the next two

ROOT = Path(__file__).resolve().parent.parent


def measure(steps: int, overrides: list[str]) -> dict[str, float]:
    """Median seconds of each phase, of the whole step, and of the time outside all phases."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        options = [f"run.dir={run}", f"algorithm.steps={steps}", "run.save_nemo=false", "validation.every=0"]
        command = [sys.executable, str(ROOT / "recipes/train_s2l.py"), *options, *overrides]
        subprocess.run(command, cwd=ROOT, check=True)
        lines = read_metrics(run / "metrics.jsonl")[1:]
    medians = {phase: statistics.median(line[f"time/{phase}"] or 0.0 for line in lines) for phase in PHASES}
    medians["step"] = statistics.median(line["time/step"] for line in lines)
    outside = [line["time/step"] - sum(line[f"time/{phase}"] or 0.0 for phase in PHASES) for line in lines]
    medians["outside"] = statistics.median(outside)
    medians["outside_share"] = sum(outside) / sum(line["time/step"] for line in lines)
    return medians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    figures = measure(options.steps, options.overrides)
    table = Table("phase", "median s", "share of the median step")
    for name in (*PHASES, "outside", "step"):
        table.add_row(name, f"{figures[name]:.3f}", f"{figures[name] / figures['step']:.1%}")
    console = Console()
    console.print(table)
    console.print(f"outside all phases, over the whole run: {figures['outside_share']:.2%}")
    if options.output:
        options.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
