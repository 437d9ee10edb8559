"""What a person who watches sees: a row an experiment, a column a seed; plain lines if the output is no terminal."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text
from typing_extensions import assert_never

from s2l_nemo.records.directory import RunDir
from s2l_nemo.reproduction.ledger import Entry, Ledger, Status
from s2l_nemo.reproduction.plan import Job, JobKind

STYLES = {
    Status.waiting: "dim", Status.running: "bold cyan", Status.submitted: "cyan", Status.done: "green",
    Status.failed: "bold red",
}  # fmt: skip


class JobTable:
    """The view of a run of jobs. A context manager: on a terminal the table is alive in between."""

    def __init__(self, ledger: Ledger, console: Console) -> None:
        self._ledger = ledger
        self._console = console
        self._steps_before = 0  # of the job at work, when it started
        self._seconds = 0.0  # of the job at work, since it started
        # without a thread of its own, which a fork would meet in any state
        self._live = (
            Live(console=console, auto_refresh=False, get_renderable=self._render) if console.is_terminal else None
        )

    def __enter__(self) -> JobTable:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.refresh()
            self._live.stop()

    def began(self, entry: Entry) -> None:
        self._steps_before, self._seconds = steps_done(entry.job), 0.0
        self._show(f"{entry.job.name} begins{_at(self._steps_before, entry.job)}; its log is {entry.job.log}")

    def tick(self, entry: Entry, seconds: float) -> None:  # noqa: ARG002 the table shows all entries
        self._seconds = seconds
        if self._live is not None:
            self._live.refresh()

    def ended(self, entry: Entry, last_lines: list[str]) -> None:
        self._seconds = 0.0
        line = f"{entry.job.name} {_in_words(entry)}; {totals(self._ledger)}"
        self._show(line, always=entry.status is Status.failed, more=last_lines)

    def _show(self, line: str, *, always: bool = False, more: Sequence[str] = ()) -> None:
        if self._live is None or always:
            self._console.print(Text(line), soft_wrap=True)
            for one in more:
                self._console.print(Text(f"  | {one}"), soft_wrap=True)
        if self._live is not None:
            self._live.refresh()

    def _render(self) -> Table:
        return render(self._ledger, self._steps_before, self._seconds)


def render(ledger: Ledger, steps_before: int = 0, seconds: float = 0.0) -> Table:
    """The table. The job at work has done `steps_before` steps when it started, `seconds` ago."""
    seeds = sorted({entry.job.seed for entry in ledger.entries.values()})
    rows: dict[tuple[str, str], dict[int, Text]] = {}
    for entry in ledger.entries.values():
        job = entry.job
        prefix = job.experiment if job.kind is JobKind.models else f"{job.experiment}-seed_{job.seed}"
        what = "train" if job.kind is JobKind.train else job.name.removeprefix(f"{prefix}-")
        cell = Text(_cell(entry, steps_before, seconds), style=STYLES[entry.status])
        rows.setdefault((job.experiment, what), {})[job.seed] = cell
    table = Table(
        "experiment", "job", *(f"seed {seed}" for seed in seeds), caption=totals(ledger), caption_justify="left"
    )
    for (experiment, what), cells in rows.items():
        table.add_row(experiment, what, *(cells.get(seed, Text("")) for seed in seeds))
    return table


def totals(ledger: Ledger) -> str:
    """How many jobs are in which state, and about how long the rest will take."""
    states = [entry.status for entry in ledger.entries.values()]
    counted = ", ".join(f"{states.count(status)} {status.value}" for status in Status if status in states)
    left = seconds_left(ledger)
    return counted if left is None else f"{counted}; about {duration(left)} left"


def seconds_left(ledger: Ledger) -> float | None:
    """What the training jobs that are left will take at the pace of those that are done; None without any to go by."""
    trained = [entry for entry in ledger.entries.values() if entry.job.kind is JobKind.train]
    done = [entry for entry in trained if entry.status is Status.done]
    steps = sum(entry.job.steps for entry in done)
    if not steps or len(done) == len(trained):
        return None
    pace = sum(entry.seconds for entry in done) / steps
    return pace * sum(entry.job.steps - steps_done(entry.job) for entry in trained if entry.status is not Status.done)


def steps_done(job: Job) -> int:
    """The steps in the metrics of a training job so far; 0 of any other."""
    file = RunDir(job.folder).metrics
    if job.kind is not JobKind.train or not file.is_file():
        return 0
    return min(job.steps, file.read_bytes().count(b"\n"))


def duration(seconds: float) -> str:
    """`0:07`, `12:31`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _cell(entry: Entry, steps_before: int, seconds: float) -> str:
    if entry.status is not Status.running:
        return _in_words(entry)
    job, now = entry.job, steps_done(entry.job)
    if job.kind is not JobKind.train:
        return f"running {duration(seconds)}"
    fresh = now - steps_before
    left = f", {duration(seconds / fresh * (job.steps - now))} left" if fresh > 0 else ""
    return f"step {now}/{job.steps}{left}"


def _in_words(entry: Entry) -> str:
    match entry.status:
        case Status.waiting:
            return f"stopped after {duration(entry.seconds)}" if entry.seconds else "waiting"
        case Status.running:
            return "running"
        case Status.submitted:
            return f"Slurm {entry.slurm_id}"
        case Status.done:
            return f"done in {duration(entry.seconds)}"
        case Status.failed:
            return f"failed with {_code(entry.code)} after {duration(entry.seconds)}"
        case _:
            assert_never(entry.status)


def _code(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def _at(steps: int, job: Job) -> str:
    return f" after step {steps}/{job.steps}" if steps else ""
