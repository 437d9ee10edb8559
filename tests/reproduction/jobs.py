"""Scripted commands as jobs, for the tests of the runner."""

from __future__ import annotations

from pathlib import Path

from s2l_nemo.reproduction.ledger import Entry
from s2l_nemo.reproduction.plan import Job, JobKind, log_file, run_folder


def job(
    root: Path, name: str, code: str, *, after: str | None = None, steps: int = 4, kind: JobKind = JobKind.train
) -> Job:
    """A job that runs Python code in its folder's name; `F` is the folder in that code."""
    folder = run_folder(root, name, 1)
    script = f"from pathlib import Path\nF = Path({str(folder)!r})\nF.mkdir(parents=True, exist_ok=True)\n{code}"
    return Job(name, name, 1, kind, folder, log_file(root, name), ("-c", script), after, steps)


class Watcher:
    """A view that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.lines: dict[str, list[str]] = {}
        self.ticks = 0

    def began(self, entry: Entry) -> None:
        self.told.append(f"{entry.job.name} {entry.status.value}")

    def tick(self, entry: Entry, seconds: float) -> None:
        self.ticks += 1

    def ended(self, entry: Entry, last_lines: list[str]) -> None:
        self.told.append(f"{entry.job.name} {entry.status.value}")
        self.lines[entry.job.name] = last_lines
