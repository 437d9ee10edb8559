"""plan.json: every job with its status, command, folder and seconds. It is the memory of the runner.

A status is written before a job starts and after it ends. So a runner that was killed leaves `running`, and the next
one takes the job up again; the commands continue what they find. Only `done` is never repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from s2l_nemo.errors import UserError
from s2l_nemo.files import parse_json, read_json_object, write_json_atomic
from s2l_nemo.records.directory import RunDir
from s2l_nemo.reproduction.plan import Job, JobKind

FILE = "plan.json"


class Status(str, Enum):
    waiting = "waiting"
    running = "running"
    submitted = "submitted"  # Slurm has it
    done = "done"
    failed = "failed"


@dataclass
class Entry:
    """How far a job is. `seconds` of all its attempts, `code` with which the last one ended."""

    job: Job
    status: Status = Status.waiting
    seconds: float = 0.0
    code: int | None = None
    slurm_id: str | None = None

    def to_json(self) -> dict[str, Any]:
        job = self.job
        return {
            "name": job.name,
            "experiment": job.experiment,
            "seed": job.seed,
            "kind": job.kind.value,
            "status": self.status.value,
            "command": job.command,
            "folder": str(job.folder),
            "log": str(job.log),
            "after": job.after,
            "steps": job.steps,
            "seconds": round(self.seconds, 1),
            "code": self.code,
            "slurm_id": self.slurm_id,
        }


class Ledger:
    """The jobs of this call with their status. Those of earlier calls in the same ROOT are kept as they are."""

    def __init__(self, root: Path, jobs: Sequence[Job]) -> None:
        """Reads ROOT/plan.json if it is there. Writes nothing. Raises UserError if the file is damaged."""
        self.root = root
        known = read_plan(root)
        self.entries = {job.name: _resumed(job, known.pop(job.name, None)) for job in jobs}
        self._others = known

    def write(self) -> None:
        """Replaces ROOT/plan.json, or leaves it as it was."""
        self.root.mkdir(parents=True, exist_ok=True)
        mine = [entry.to_json() for entry in self.entries.values()]
        write_json_atomic(self.root / FILE, {"jobs": [*mine, *self._others.values()]})

    def unfinished(self) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.status is not Status.done]

    def may_start(self, entry: Entry) -> bool:
        """Whether the job may start here: what must be done before is done, and Slurm does not have it."""
        if entry.status is Status.submitted:
            return False
        return entry.job.after is None or self.entries[entry.job.after].status is Status.done


def read_plan(root: Path) -> dict[str, dict[str, Any]]:
    """The jobs in ROOT/plan.json by name; {} if there is no such file. Raises UserError if it is damaged."""
    file = root / FILE
    if not file.exists():
        return {}
    try:
        return {job["name"]: job for job in map(_checked, parse_json(file)["jobs"])}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is no plan of recipes/reproduce.py ({error!r:.200}): move it away; a finished run ends at once if "
            "it is started again"
        ) from None


_KINDS: Mapping[str, tuple[type, ...]] = {
    "name": (str,), "experiment": (str,), "seed": (int,), "kind": (str,), "command": (str,), "seconds": (int, float),
    "code": (int, type(None)), "slurm_id": (str, type(None)),
}  # fmt: skip


def _checked(one: Any) -> dict[str, Any]:
    """A job of plan.json. Raises KeyError, TypeError or ValueError if it lacks what is read of it."""
    job = dict(one)
    Status(job["status"])
    for key, kinds in _KINDS.items():
        if type(job[key]) not in kinds:
            raise ValueError(f"{key}={job[key]!r:.80}")
    return job


def _resumed(job: Job, before: Mapping[str, Any] | None) -> Entry:
    """The job as an earlier call has left it. One that was asked for in other words, or whose folder is gone, waits."""
    if before is None:
        return Entry(job)
    same = before["command"] == job.command
    entry = Entry(job, Status.waiting, float(before["seconds"]) if same else 0.0)
    if same and before["status"] == Status.submitted.value:
        entry.status, entry.slurm_id = Status.submitted, before["slurm_id"]
    if same and job.folder.is_dir() and (before["status"] == Status.done.value or is_trained(job)):
        entry.status, entry.code = Status.done, before["code"]
    return entry


def is_trained(job: Job) -> bool:
    """Whether the folder of a training run has the summary of all its steps, whoever has started it."""
    file = RunDir(job.folder).summary
    if job.kind is not JobKind.train or not file.is_file():
        return False
    return bool(read_json_object(file, "take the folder away").get("steps") == job.steps)
