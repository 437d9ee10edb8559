"""Shows groups of rollouts of a run: who wrote each answer, its reward and its advantage.

    python tools/show_rollouts.py RUN step=3 prompt=17               # one group
    python tools/show_rollouts.py RUN step=3 count=5                 # the first five of a step
    python tools/show_rollouts.py RUN step=3 html=groups.html        # the same as a page, in color

keys:
  step=INTEGER      the training step; the last one that left rollouts by default
  prompt=INTEGER    the id of a prompt, as metrics and rollouts have it
  count=INTEGER     groups to show without `prompt`; default 3
  html=FILE         write a page instead of printing
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone without installation

from rich.console import Console

from s2l_nemo.arguments import at_home
from s2l_nemo.config.checks import check_ranges
from s2l_nemo.config.load import load_values
from s2l_nemo.errors import UserError
from s2l_nemo.fields import COUNT, POSITIVE_COUNT, key
from s2l_nemo.platform.failures import command
from s2l_nemo.records.directory import RunDir
from s2l_nemo.records.transcript import read_groups, to_console, write_html

WIDTH = 120


@dataclass
class ShowOptions:
    step: int | None = key(None, "the training step; null: the last one that left rollouts", POSITIVE_COUNT)
    prompt: int | None = key(None, "the id of a prompt; null: the first ones", COUNT)
    count: int = key(3, "groups to show without `prompt`", POSITIVE_COUNT)
    html: str | None = key(None, "write a page instead of printing", path=True)


@command
def main(argv: list[str]) -> int:
    if not argv or {"-h", "--help"} & set(argv):
        print(__doc__)
        return 0 if argv else 2
    options = load_values(argv[1:], ShowOptions, str(__doc__))
    check_ranges(options, ShowOptions)
    run_dir = RunDir(Path(at_home(argv[0])))
    groups = read_groups(rollout_file(run_dir, options.step), options.prompt)[: options.count]
    if options.html is not None:
        write_html(Path(options.html), groups)
        print(f"written to {options.html}")
        return 0
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    for group in groups:
        console.print(to_console(group))
    return 0


def rollout_file(run_dir: RunDir, step: int | None) -> Path:
    """The rollouts of a step, or of the last one that has any. Raises UserError if there are none."""
    files = sorted(run_dir.rollouts.glob("step_*.parquet"))
    if not files:
        raise UserError(f"{run_dir.path} holds no rollouts: give the folder of a run (run.dir)")
    return files[-1] if step is None else run_dir.rollout_file(step)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
