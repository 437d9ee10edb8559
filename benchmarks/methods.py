"""Trains the tiny preset by several methods and seeds. Reports held-out pass@1, generated tokens and seconds.

    python benchmarks/methods.py [--methods grpo s2l ...] [--seeds 1 2 3] [--output FILE] [key=value ...]

A run that is there is continued, or used if it is finished. `store` samples its rollouts once, for all seeds. Needs the
tiny family (`python tools/make_tiny_family.py`). The intervals of a run are 95 % bootstraps over the held-out prompts,
paired with the same prompts before training: they say how sure its gain is on these prompts, not what another seed
would give. A second table compares each method with the first one after training, paired by seed and prompt; its
intervals are for other seeds and other prompts (`s2l_nemo/measures/crossed.py`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone without installation

import numpy as np
from rich.console import Console
from rich.table import Table

from s2l_nemo.measures.crossed import crossed_mean

ROOT = Path(__file__).resolve().parent.parent
STORE = "{runs}/store"
METHODS = {
    "grpo": ["experiment=grpo"],
    "s2l": [],
    "store": ["explorer.source=store", f"explorer.path={STORE}"],
    "two_explorers": [
        "explorers.small.path=models/tiny/explorer",
        "explorers.start.path=models/tiny/learner",
        "explorers.start.temperature=1.3",
    ],
    "adaptive": ["algorithm.schedule.name=adaptive", "algorithm.schedule.alpha=0.5"],
    "rescue": ["algorithm.schedule.name=constant", "algorithm.rescue_first=8"],
    "refill": ["algorithm.refill_rounds=2"],
    "luffy": ["algorithm.importance=luffy"],
    # With token_mean and one optimizer step a step, as in this preset, GSPO is GRPO.
    "gspo": [
        "algorithm.importance=gspo",
        "algorithm.aggregation=sequence_mean",
        "algorithm.mini_batch_prompts=8",
        "model.micro_batch_size=64",
        "algorithm.clip_low=3e-4",
        "algorithm.clip_high=4e-4",
    ],
    "two_updates": ["rollout.two_updates=true", "algorithm.explorer_mini_batch=32", "model.micro_batch_tokens=8192"],
}
COLUMNS = ("method", "seed", "before", "after", "gain", "95 % interval", "explorer tokens", "learner tokens", "seconds")


def figures(method: str, seed: int, runs: Path, overrides: list[str]) -> dict[str, Any]:
    """Trains unless the run is finished. Returns its summary and its totals."""
    run = runs / f"{method}-seed{seed}"
    if not (run / "summary.json").exists():
        keys = [key.format(runs=runs) for key in METHODS[method]]
        command = [sys.executable, str(ROOT / "recipes/train_s2l.py"), *keys, *overrides]
        subprocess.run([*command, f"run.dir={run}", f"run.seed={seed}"], cwd=ROOT, check=True)
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    last: dict[str, Any] = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    totals = {name: value for name, value in last.items() if name.startswith("total/")}
    return {"method": method, "seed": seed, **summary, **totals}


def sample_store(runs: Path, overrides: list[str]) -> None:
    """The explorer's rollouts of every training prompt; done at once if they are there."""
    shared = [one for one in overrides if one.startswith(("data.", "rollout.max_"))]
    command = [sys.executable, str(ROOT / "recipes/sample_explorer.py"), "model=models/tiny/explorer", "samples=16"]
    subprocess.run([*command, f"output={STORE.format(runs=runs)}", *shared], cwd=ROOT, check=True)


def row(f: dict[str, Any]) -> list[str]:
    return [
        f["method"],
        str(f["seed"]),
        f"{f['pass@1/before']:.3f}",
        f"{f['pass@1/after']:.3f}",
        f"{f['pass@1/difference']:+.3f}",
        f"{f['pass@1/difference_low']:+.3f} to {f['pass@1/difference_high']:+.3f}",
        f"{f['total/tokens_explorer']:,.0f}",
        f"{f['total/tokens_learner']:,.0f}",
        f"{f['seconds']:.0f}",
    ]


def against_first(methods: list[str], seeds: list[int], runs: Path) -> list[dict[str, Any]]:
    """pass@1 after training less that of the first method, of the same seeds and prompts; None without an interval."""
    rewards_SP = {method: [after(runs / f"{method}-seed{seed}") for seed in seeds] for method in methods}
    rows = []
    for method in methods[1:]:
        found = crossed_mean(np.array(rewards_SP[method]) - np.array(rewards_SP[methods[0]]))
        rows.append({"method": method, "less": methods[0], "interval": None if found is None else list(found)})
    return rows


def after(run: Path) -> list[float]:
    """pass@1 of each held-out prompt after the last step."""
    steps = json.loads((run / "summary.json").read_text())["steps"]
    content: dict[str, Any] = json.loads((run / f"validation/step_{steps:06d}.json").read_text())
    return [sum(row) / len(row) for row in content["correct"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--runs", type=Path, default=Path("runs/methods"))
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    if "store" in options.methods:
        sample_store(options.runs, options.overrides)
    rows = [
        figures(method, seed, options.runs, options.overrides) for seed in options.seeds for method in options.methods
    ]
    table = Table(*COLUMNS)
    for one in sorted(rows, key=lambda one: options.methods.index(one["method"])):
        table.add_row(*row(one))
    compared = against_first(options.methods, options.seeds, options.runs)
    differences = Table("method", f"less {options.methods[0]}", "95 % interval")
    for one in compared:
        mean, low, high = one["interval"] or (float("nan"),) * 3
        differences.add_row(one["method"], f"{mean:+.3f}", f"{low:+.3f} to {high:+.3f}")
    out = Console(width=None if sys.stdout.isatty() else 140)
    out.print(table)
    out.print(differences)
    if options.output:
        content = {"overrides": options.overrides, "runs": rows, "differences": compared}
        options.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
