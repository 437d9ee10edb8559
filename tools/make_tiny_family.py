"""Makes a tiny Qwen3 family, learner and explorer, as ordinary Hugging Face checkpoints.

    python tools/make_tiny_family.py [--world plain] [--output models/tiny] [--seed 1] [--force]
    python tools/make_tiny_family.py --world coverage

`plain` is a learner that makes slips in sums, and an explorer distilled from it until it is as good. `coverage` is
meant for a learner that is more often right, and an explorer that solves more problems once both have many tries
(Fig. 2 of the paper). It prints both curves of pass@k, and whether they cross. docs/toy-worlds.md explains both.
`family=tiny` and `family=coverage` train on them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone without installation
# Read when torch is imported. On busy cores, threads that spin while they wait make a step 2 to 8 times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from rich.console import Console
from typing_extensions import assert_never

from s2l_nemo.arguments import Parser, a_path
from s2l_nemo.evaluation.pass_curves import curve_table
from s2l_nemo.measures.statistics import Interval
from s2l_nemo.platform.failures import command
from s2l_nemo.toy_worlds.coverage import CoverageRecipe
from s2l_nemo.toy_worlds.plain import PlainRecipe
from s2l_nemo.toy_worlds.publish import Recipe, publish

THREADS = 2


class World(str, Enum):
    """What the models of a family have read."""

    plain = "plain"
    coverage = "coverage"

    @property
    def folder(self) -> Path:
        """Where conf/family/ looks for it."""
        return Path("models/tiny" if self is World.plain else "models/coverage")

    def recipe(self, seed: int) -> Recipe:
        """The family of this world."""
        match self:
            case World.plain:
                return PlainRecipe(seed=seed)
            case World.coverage:
                return CoverageRecipe(seed=seed)
            case _:
                assert_never(self)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser("Makes a tiny Qwen3 family, learner and explorer.")
    parser.add_argument("--world", type=World, choices=list(World), default=World.plain, metavar="{plain,coverage}")
    parser.add_argument("--output", type=a_path, help="folder (default: models/tiny or models/coverage)")
    parser.add_argument("--seed", type=int, default=1, help="of text and weights (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="make it again even if it is up to date")
    options = parser.parse_args(arguments)
    output: Path = options.output or options.world.folder
    console = Console()
    torch.set_num_threads(THREADS)
    started = time.monotonic()
    try:
        facts = publish(options.world.recipe(options.seed), output, options.force, console)
    except KeyboardInterrupt:
        console.print(f"interrupted: {output} is as it was")
        return 130
    show(facts, output, console)
    console.print(f"{time.monotonic() - started:.0f} s")
    return 0


def show(facts: dict[str, Any], output: Path, console: Console) -> None:
    """What a person wants to know of the family."""
    for name in ("learner", "explorer"):
        shown = ", ".join(f"{key} {value}" for key, value in facts[name].items() if key.startswith("pass@"))
        console.print(f"{output / name}: {facts[name]['parameters']:,} parameters, {shown}")
    if "chance" in facts:
        console.print(f"chance {facts['chance']}")
    if "curves" in facts:
        curves = {
            name: {int(k): Interval(*values) for k, values in curve.items()} for name, curve in facts["curves"].items()
        }
        console.print(curve_table(curves))
        held_out = facts["held_out"]
        said = "cross beyond" if facts["crosses"] else "do not cross beyond"
        console.print(
            f"{held_out['prompts']} held-out prompts x {held_out['samples']} samples; the curves {said} their intervals"
        )


if __name__ == "__main__":
    sys.exit(main())
