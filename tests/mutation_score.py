"""Says how many mutants the tests have killed, from mutmut's own counts. Exit code 1 below the bound."""

from __future__ import annotations

import json
import sys
from pathlib import Path

BOUND = 0.9
COUNTS = Path("mutants/mutmut-cicd-stats.json")


def main() -> int:
    counts = json.loads(COUNTS.read_text(encoding="utf-8"))
    killed, total = counts["killed"] + counts["timeout"] + counts["segfault"], counts["total"] - counts["skipped"]
    share = killed / total
    print(f"{killed} of {total} mutants killed, {share:.1%} (at least {BOUND:.0%} wanted)")
    return 0 if share >= BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
