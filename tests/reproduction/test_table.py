"""What a person sees while jobs run, on a terminal and in a file."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from s2l_nemo.reproduction.ledger import Ledger, Status
from s2l_nemo.reproduction.plan import Job, JobKind, log_file, run_folder
from s2l_nemo.reproduction.runner import run_jobs
from s2l_nemo.reproduction.table import JobTable, duration, render, seconds_left, steps_done, totals
from tests.reproduction.jobs import job

ROOT = Path(__file__).resolve().parent.parent.parent


def training(root: Path, experiment: str, seed: int, *, lines: int = 0) -> Job:
    """A job of 10 steps, of which some have left a line of metrics."""
    folder, name = run_folder(root, experiment, seed), f"{experiment}-seed_{seed}"
    if lines:
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text("{}\n" * lines + '{"torn')
    return Job(name, experiment, seed, JobKind.train, folder, log_file(root, name), ("-c", ""), None, 10)


def shown(ledger: Ledger, **clock: float) -> list[list[str]]:
    """The cells of the table, row by row, and its caption."""
    console = Console(width=160, file=io.StringIO(), force_terminal=False)
    console.print(render(ledger, int(clock.get("steps_before", 0)), clock.get("seconds", 0.0)))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    rows = [[cell.strip() for cell in line.strip("│┃ ").split("│")] for line in lines if line.startswith("│")]
    return [*rows, [lines[-1].strip()]]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Done, at work, failed, with Slurm, waiting; an evaluation at work."""
    jobs = [
        training(tmp_path, "a", 1, lines=10), training(tmp_path, "b", 1, lines=6), training(tmp_path, "a", 2),
        training(tmp_path, "b", 2), training(tmp_path, "c", 2),
    ]  # fmt: skip
    curve = Job(
        "a-seed_1-step_curve", "a", 1, JobKind.evaluate, jobs[0].folder, log_file(tmp_path, "e"), (), jobs[0].name
    )
    made = Ledger(tmp_path, [*jobs, curve])
    entries = list(made.entries.values())
    for entry, status in zip(
        entries, (Status.done, Status.running, Status.failed, Status.submitted, Status.waiting, Status.waiting),
        strict=True,
    ):  # fmt: skip
        entry.status = status
    entries[0].seconds, entries[2].seconds, entries[2].code, entries[3].slurm_id = 100.0, 65.0, 2, "17"
    return made


def test_a_row_a_job_and_a_column_a_seed(ledger: Ledger) -> None:
    # Of b's first run 4 steps are new after 20 s, so 4 steps are left: 20 s. The pace of the run that is done is 10 s
    # a step; of the others 4 + 10 + 10 + 10 steps are left.
    assert shown(ledger, steps_before=2, seconds=20.0) == [
        ["a", "train", "done in 1:40", "failed with exit code 2 after 1:05"],
        ["b", "train", "step 6/10, 0:20 left", "Slurm 17"],
        ["c", "train", "", "waiting"],
        ["a", "step_curve", "waiting"],
        ["2 waiting, 1 running, 1 submitted, 1 done, 1 failed; about 5:40 left"],
    ]


def test_before_the_first_step_nobody_knows_how_long(ledger: Ledger) -> None:
    assert shown(ledger, steps_before=6, seconds=20.0)[1][2] == "step 6/10"
    next(iter(ledger.entries.values())).status = Status.waiting
    assert seconds_left(ledger) is None
    assert totals(ledger) == "3 waiting, 1 running, 1 submitted, 1 failed"


def test_what_else_a_cell_says(ledger: Ledger) -> None:
    entries = list(ledger.entries.values())
    entries[4].seconds = 30.0
    entries[5].status = Status.running
    entries[2].code = -9
    rows = shown(ledger, seconds=125.0)
    assert rows[0][3] == "failed with signal 9 after 1:05"
    assert rows[2][3] == "stopped after 0:30"
    assert rows[3][2] == "running 2:05"


def test_steps_and_durations(tmp_path: Path) -> None:
    assert steps_done(training(tmp_path, "a", 1)) == 0
    assert steps_done(training(tmp_path, "a", 2, lines=3)) == 3  # a torn line is none
    assert [duration(seconds) for seconds in (7.4, 751, 3723)] == ["0:07", "12:31", "1:02:03"]


@pytest.mark.parametrize("terminal", [False, True])
def test_what_is_printed(tmp_path: Path, terminal: bool) -> None:
    stream = io.StringIO()
    console = Console(width=100, file=stream, force_terminal=terminal, markup=False, highlight=False)
    jobs = [job(tmp_path, "good", ""), job(tmp_path, "bad", "print('the reason')\nexit(4)")]
    ledger = Ledger(tmp_path, jobs)
    with JobTable(ledger, console) as table:
        assert run_jobs(ledger, table, ROOT, pause=0.05) == 1
    text = stream.getvalue()
    assert "bad failed with exit code 4 after " in text
    assert "  | the reason" in text
    if terminal:
        assert "│ bad " in text
    else:
        first, second, third, fourth, fifth = text.splitlines()
        assert first == f"good begins; its log is {tmp_path}/logs/good.log"
        assert re.fullmatch(r"good done in [\d:]+; 1 waiting, 1 done; about [\d:]+ left", second)
        assert third.startswith("bad begins")
        assert re.fullmatch(r"bad failed with exit code 4 after [\d:]+; 1 done, 1 failed; about [\d:]+ left", fourth)
        assert fifth == "  | the reason"
