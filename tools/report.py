"""Makes report.html of a folder of runs, finished or not, with its pictures and their data beside it.

    python tools/report.py runs/toy            # EXPERIMENT/seed_N/ in it, and claims.json and plan.json of the runner
    python tools/report.py runs/tiny           # one run

The page is ROOT/report.html and needs nothing but itself; ROOT/report/ has a PNG and a CSV of each picture.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone without installation

from s2l_nemo.arguments import Parser, a_path
from s2l_nemo.platform.failures import command
from s2l_nemo.reproduction.report.page import write_report


@command
def main(argv: list[str]) -> int:
    parser = Parser(__doc__)
    parser.add_argument("root", type=a_path, metavar="ROOT", help="folder of EXPERIMENT/seed_N/, or that of one run")
    page = write_report(parser.parse_args(argv).root)
    print(f"written: {page}, and its pictures and data in {page.parent}/report")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
