"""Fuzzes every reader of outside files: `make fuzz`, or

    python -m tests.fuzz [READER ...] [--inputs 100000] [--quick] [--seed 0] [--json FILE] [--keep]

A finding is an input that makes a reader raise anything but its one-line error, take too much time or memory, or touch
what lies outside of its folder. `--keep` adds the inputs of findings to tests/fuzz/corpus, which `make test` reads
again. A run that was cut off goes on: readers that FILE has, of the same code, seed and number, are not read again.
The exit code is 1 if there are findings.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before libraries read them; children must have no threads
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

from rich.console import Console
from rich.status import Status
from rich.table import Table

from s2l_nemo.files import write_json_atomic
from tests.fuzz.registry import READERS
from tests.fuzz.run import Outcome, fuzz, keep
from tests.fuzz.work import ROOT


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"default: all of {', '.join(READERS)}")
    parser.add_argument("--inputs", type=int, default=100_000, help="of each reader; default 100000")
    parser.add_argument("--quick", action="store_true", help="few inputs, as `make test` reads them")
    parser.add_argument("--seed", type=int, default=0, help="other inputs; default 0")
    parser.add_argument("--json", type=Path, help="file for the figures; it is continued if it is there")
    parser.add_argument("--keep", action="store_true", help="add the inputs of findings to tests/fuzz/corpus")
    options = parser.parse_args(argv)
    unknown = sorted(set(options.readers) - READERS.keys())
    if unknown or options.inputs < 1:
        parser.error(f"no reader {', '.join(unknown)}" if unknown else f"--inputs {options.inputs} must be at least 1")
    asked = "quick" if options.quick else options.inputs
    identity = {"code": code_hash(), "seed": options.seed, "asked": asked}
    done = finished(options.json, identity)
    errors = Console(stderr=True)
    for name in options.readers or READERS:
        if name not in done:
            inputs = READERS[name].quick if options.quick else options.inputs
            with errors.status(name) as status:
                outcome = fuzz(READERS[name], options.seed, inputs, Said(name, status))
            done[name] = outcome.to_json()
            tell(outcome)
            if options.keep:
                keep(outcome.findings)
            if options.json is not None:
                write_json_atomic(options.json, {**identity, "readers": list(done.values())})
    shown = [done[name] for name in options.readers or READERS]
    Console(width=None if sys.stdout.isatty() else 120).print(table(shown))
    return 1 if any(one["findings"] for one in shown) else 0


@dataclass(frozen=True)
class Said:
    """Shows on a terminal how far a reader is."""

    name: str
    status: Status

    def __call__(self, text: str) -> None:
        self.status.update(f"{self.name}: {text}")


def code_hash() -> str:
    """Of all that a reading may depend on in this repository."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in ("s2l_nemo", "tests/fuzz") for path in (ROOT / folder).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def finished(file: Path | None, identity: dict[str, Any]) -> dict[str, Any]:
    """The figures of the readers that an earlier run of the same identity has done."""
    if file is None or not file.is_file():
        return {}
    content = json.loads(file.read_text(encoding="utf-8"))
    same = {key: content.get(key) for key in identity} == identity
    return {one["reader"]: one for one in content["readers"]} if same else {}


def tell(outcome: Outcome) -> None:
    """Each finding with what gives it again."""
    for one in outcome.findings:
        print(f"{one.reader}: seed {outcome.seed}, input {one.number}: {one.where}: {one.what}", flush=True)


def table(outcomes: Sequence[dict[str, Any]]) -> Table:
    shown = Table("reader", *("inputs", "read", "refused", "seconds", "inputs/s", "findings"), box=None)
    for column in shown.columns[1:]:
        column.justify = "right"
    for one in outcomes:
        figures = (f"{one[key]:,}" for key in ("inputs", "accepted", "refused"))
        shown.add_row(
            one["reader"], *figures, f"{one['seconds']:,.1f}", f"{one['inputs_per_s']:,.0f}", str(len(one["findings"]))
        )
    return shown


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
