"""ROOT/claims.json: the verdicts on all claims, from the runs that lie in ROOT, and the same as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from s2l_nemo.config.reproduction import Scale
from s2l_nemo.files import write_json_atomic
from s2l_nemo.reproduction.claims import CLAIMS, Verdict
from s2l_nemo.reproduction.ledger import read_plan
from s2l_nemo.reproduction.plan import JobKind
from s2l_nemo.reproduction.verdicts import Judged, judge_all

FILE = "claims.json"
STYLES = {Verdict.reproduced: "green", Verdict.not_reproduced: "red", Verdict.undecided: "yellow"}


def judge_root(root: Path, scale: Scale) -> list[Judged]:
    """Judges the claims by all runs that ROOT/plan.json names, and writes ROOT/claims.json.

    Raises UserError if plan.json is damaged.
    """
    seeds: dict[str, set[int]] = {}
    for job in read_plan(root).values():
        if job["kind"] in (JobKind.train.value, JobKind.models.value):
            seeds.setdefault(job["experiment"], set()).add(int(job["seed"]))
    judged = judge_all(CLAIMS, root, scale, seeds)
    root.mkdir(parents=True, exist_ok=True)
    write_json_atomic(root / FILE, [one.to_json() for one in judged])
    return judged


def verdict_table(judged: Sequence[Judged]) -> Table:
    """A line a claim: what came out, the interval that decides it, and what else one must know."""
    table = Table("claim", "difference", "95 % interval", "bound", "seeds", "problems", "verdict", show_lines=True)
    for one in judged:
        interval = one.interval
        table.add_row(
            Text(f"{one.claim.text}\n{one.note}" if one.note else one.claim.text),
            "-" if interval is None else f"{interval.mean:+.3f}",
            "-" if interval is None else f"{interval.low:+.3f} to {interval.high:+.3f}",
            f"{one.claim.bound:g}",
            str(len(one.seeds)),
            str(one.problems or "-"),
            Text(one.verdict.value.replace("_", " "), style=STYLES[one.verdict]),
        )
    return table
