"""Measures how diverse the samples of several models are (Table 3). It reads the outputs of their evaluations.

python recipes/diversity.py 'runs=[DIR,DIR,...]' [key=value ...]
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # runs from a clone without installation

from rich.console import Console  # noqa: E402

from s2l_nemo.config.diversity import DiversityConfig, check_diversity_config  # noqa: E402
from s2l_nemo.config.load import load_values  # noqa: E402
from s2l_nemo.evaluation.diversity_table import FORMULAS, measure, render  # noqa: E402
from s2l_nemo.evaluation.plots import plot_diversity  # noqa: E402
from s2l_nemo.files import check_writable, write_json_atomic  # noqa: E402
from s2l_nemo.platform.failures import command  # noqa: E402


@command
def main(argv: list[str]) -> int:
    cfg = load_values(argv, DiversityConfig, __doc__ or "")
    check_diversity_config(cfg)
    output = Path(cfg.output)
    check_writable(output)  # now, and not when all is measured
    rows = measure(cfg)
    output.mkdir(parents=True, exist_ok=True)
    models = [row.to_json() for row in rows]
    write_json_atomic(output / "diversity.json", {"formulas": FORMULAS, "models": models})
    plot_diversity(rows, output / "diversity.png")
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False, emoji=False)
    console.print(render(rows), *FORMULAS, f"written: {output}/diversity.json, diversity.png", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
