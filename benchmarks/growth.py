"""Measures how the time of a training step grows: one variable at a time, and the slope in logarithms of both.

    python benchmarks/growth.py [--variables prompts group length] [--repeats 2] [--output FILE]

A slope of 1 is a time proportional to the variable. Needs the tiny family (`python tools/make_tiny_family.py`). The
runs are short runs of the tiny preset on one rank, without explorer. Answers are sampled at a temperature at which
hardly one stops before its limit, so that `rollout.max_response_length` is their length. The values of a variable run
in turns, and medians are over all steps but the first of each run.

The layouts have no slope: they are the same work on two cores.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from s2l_nemo.records.metrics import read_metrics
from s2l_nemo.trainer.clock import PHASES

ROOT = Path(__file__).resolve().parent.parent
BASE = {
    "run.save_nemo": "false", "explorer.path": "null", "algorithm.schedule.name": "none", "algorithm.steps": 4,
    "algorithm.prompts_per_step": 16, "algorithm.group_size": 8, "rollout.max_response_length": 48,
    "rollout.temperature": 20, "validation.every": 0, "validation.prompts": 1, "validation.samples": 1,
    "logging.rollouts_every": 0, "trainer.devices": 1, "model.tensor_model_parallel_size": 1,
    "model.micro_batch_size": 64,
}  # fmt: skip
VARIABLES: dict[str, tuple[str, Sequence[int]]] = {
    "prompts": ("algorithm.prompts_per_step", (8, 16, 32, 64)),
    "group": ("algorithm.group_size", (8, 16, 32, 64)),
    "length": ("rollout.max_response_length", (24, 48, 96, 192)),
}
LAYOUTS = {"TP 1 x PP 1": (1, 1), "TP 2 x PP 1": (2, 1), "TP 1 x PP 2": (1, 2)}


def run_steps(overrides: dict[str, Any]) -> list[dict[str, Any]]:
    """Metrics of all steps but the first."""
    with tempfile.TemporaryDirectory() as folder:
        keys = {**BASE, "run.dir": Path(folder) / "run", **overrides}
        command = [sys.executable, str(ROOT / "recipes/train_s2l.py"), *(f"{k}={v}" for k, v in keys.items())]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        lines: list[dict[str, Any]] = list(read_metrics(Path(folder) / "run/metrics.jsonl"))
    return lines[1:]


def medians(steps: list[dict[str, Any]]) -> dict[str, float]:
    return {phase: statistics.median(step[f"time/{phase}"] or 0.0 for step in steps) for phase in (*PHASES, "step")}


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Of the line of least squares through (log x, log y)."""
    logs = [(math.log(x), math.log(y)) for x, y in zip(xs, ys, strict=True)]
    mean_x, mean_y = (statistics.mean(values) for values in zip(*logs, strict=True))
    covariance = sum((x - mean_x) * (y - mean_y) for x, y in logs)
    return float(covariance / sum((x - mean_x) ** 2 for x, _ in logs))


def grow(variable: str, repeats: int) -> dict[str, Any]:
    key, values = VARIABLES[variable]
    steps: dict[int, list[dict[str, Any]]] = {value: [] for value in values}
    for _ in range(repeats):
        for value in values:
            steps[value] += run_steps({key: value})
    seconds = {value: medians(found) for value, found in steps.items()}
    phases = ("rollout_learner", "logprobs", "update", "step")
    slopes = {phase: slope(values, [seconds[value][phase] for value in values]) for phase in phases}
    return {"key": key, "seconds": seconds, "slopes": slopes}


def cut(repeats: int) -> dict[str, dict[str, float]]:
    """Medians of each layout."""
    steps: dict[str, list[dict[str, Any]]] = {name: [] for name in LAYOUTS}
    for _ in range(repeats):
        for name, (tensor, pipeline) in LAYOUTS.items():
            sizes = {"model.tensor_model_parallel_size": tensor, "model.pipeline_model_parallel_size": pipeline}
            steps[name] += run_steps({**sizes, "trainer.devices": tensor * pipeline})
    return {name: medians(found) for name, found in steps.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variables", nargs="+", choices=[*VARIABLES, "layout"], default=[*VARIABLES, "layout"])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    console = Console()
    results: dict[str, Any] = {}
    for variable in options.variables:
        if variable == "layout":
            layouts = results[variable] = cut(options.repeats)
            table = Table("layout", "log-probs", "update", "step")
            for name, found in layouts.items():
                table.add_row(name, *(f"{found[phase]:.2f}" for phase in ("logprobs", "update", "step")))
        else:
            grown = results[variable] = grow(variable, options.repeats)
            table = Table(grown["key"], *grown["slopes"])
            for value, seconds in grown["seconds"].items():
                table.add_row(str(value), *(f"{seconds[phase]:.2f}" for phase in grown["slopes"]))
            table.add_row("slope", *(f"{value:.2f}" for value in grown["slopes"].values()))
        console.print(table)
    if options.output:
        machine = {"machine": platform.processor() or platform.machine(), "repeats": options.repeats, "base": BASE}
        options.output.write_text(json.dumps({**machine, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
