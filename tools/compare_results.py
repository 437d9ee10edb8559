"""Compares evaluations of models on the same problems, with paired bootstrap intervals.

    python tools/compare_results.py evaluations/result/grpo_20260101-120000 evaluations/result/s2l_20260101-130000

Every other result is compared with the first. `+` and `-` mean that the 95 % interval excludes 0; `~` means that it
does not. Folders of runs (evaluate.py model=RUN steps=all) are compared step by step, and drawn over steps into
FILE.png and over prompts into FILE_over_prompts.png.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone without installation

from rich.console import Console
from rich.table import Table

from s2l_nemo.arguments import Parser, a_path
from s2l_nemo.errors import UserError
from s2l_nemo.evaluation.compare import Difference, differences, label, load_all
from s2l_nemo.evaluation.console import console
from s2l_nemo.evaluation.steps import is_curve, load_curves, shared_steps
from s2l_nemo.platform.failures import command


@command
def main(argv: list[str]) -> int:
    parser = Parser(__doc__)
    parser.add_argument(
        "results", type=a_path, nargs="+", metavar="RESULT", help="folder result/NAME_TIME or BENCH.json"
    )
    parser.add_argument("--plot", type=a_path, metavar="FILE", help="draw pass@k of all of them into this .png")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap; default 0")
    options = parser.parse_args(argv)
    if len(options.results) < 2:
        raise UserError("one result: give at least two to compare")
    if any(map(is_curve, options.results)):
        compare_runs(options.results, options.plot, options.seed)
        return 0
    results = load_all(options.results)
    compared = [differences(results[0], other, options.seed) for other in results[1:]]
    out = console()
    for other, found in zip(results[1:], compared, strict=True):
        print_differences(out, label(results[0]), label(other), found)
    out.print("95 % intervals of paired bootstrap over problems; + and -: without 0, ~: with 0", style="dim")
    if options.plot is not None:
        from s2l_nemo.evaluation.plots import plot_pass_at_k

        plot_pass_at_k([result for one in results for result in one.values()], options.plot)
        out.print(f"written to {options.plot}", soft_wrap=True)
    return 0


def compare_runs(paths: Sequence[Path], plot: Path | None, seed: int) -> None:
    """The steps that every other run shares with the first, and the curves of all."""
    strangers = [path for path in paths if not is_curve(path)]
    if strangers:
        raise UserError(
            f"{strangers[0]} has no steps.json, and others have: compare runs with runs, models with models"
        )
    curves, out = load_curves(paths), console()
    for other in curves[1:]:
        shared = shared_steps(curves[0], other)
        for first, second in shared:
            found = differences(first.results, second.results, seed)
            print_differences(out, f"{curves[0].name}", f"{other.name}, step {first.step}", found)
        if not shared:
            out.print(f"{curves[0].name} and {other.name} have no step in common", soft_wrap=True)
    out.print("95 % intervals of paired bootstrap over problems; + and -: without 0, ~: with 0", style="dim")
    if plot is not None:
        from s2l_nemo.evaluation.curve_plots import Axis, plot_steps

        for axis, path in ((Axis.steps, plot), (Axis.prompts, plot.with_stem(f"{plot.stem}_over_prompts"))):
            plot_steps(curves, axis, path)
            out.print(f"written to {path}", soft_wrap=True)


def print_differences(out: Console, first: str, second: str, found: Sequence[Difference]) -> None:
    table = Table(
        title=f"pass@1: A = {first}, B = {second}", title_style="bold", title_justify="left", box=None, pad_edge=False
    )
    table.add_column("benchmark")
    for title in ("problems", "A", "B", "B - A (95 %)"):
        table.add_column(title, justify="right")
    table.add_column("")
    for one in found:
        table.add_row(
            one.benchmark,
            str(one.problems),
            f"{100 * one.first:.1f}",
            f"{100 * one.second:.1f}",
            f"{100 * one.gain:+.1f} ({100 * one.low:+.1f} to {100 * one.high:+.1f})",
            one.sign,
        )
    out.print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
