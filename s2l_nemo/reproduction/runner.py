"""Runs the jobs of a plan one after another, as child processes.

A job ends with this process, however that ends: Ctrl-C, SIGTERM and the like are passed on, so that a training run
saves its step first, and the kernel kills the job of a runner that was killed. The next call goes on where this one
was. A job that fails is shown, and those that do not need it go on.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from s2l_nemo.errors import UserError
from s2l_nemo.platform.launch import PR_SET_PDEATHSIG, caught_signals
from s2l_nemo.reproduction.ledger import Entry, Ledger, Status

LAST_LINES = 12  # of the log of a job that failed
NOTE_EVERY = 15.0  # seconds after which plan.json is brought up to date while a job runs
_LIBC = ctypes.CDLL(None)


class View(Protocol):
    """Who watches."""

    def began(self, entry: Entry) -> None:
        """A job has started."""

    def tick(self, entry: Entry, seconds: float) -> None:
        """The job is at work since so many seconds."""

    def ended(self, entry: Entry, last_lines: list[str]) -> None:
        """The job has ended: see its status. `last_lines` are those of its log if it failed."""


def run_jobs(ledger: Ledger, view: View, clone: Path, *, pause: float = 0.5) -> int:
    """Runs all jobs that are not done. Returns 0 if all are done now, 1 if not, 128 + signal if one stopped it.

    Looks after a job every `pause` seconds. Raises UserError if another process is at work in ROOT.
    """
    with only_one(ledger.root), _signals() as received:
        ledger.write()
        for entry in ledger.unfinished():
            if received:
                break
            if ledger.may_start(entry):
                _run(entry, ledger, view, clone, pause, received)
        if received:
            return 128 + received[0]
    return 1 if ledger.unfinished() else 0


@contextmanager
def only_one(root: Path) -> Iterator[None]:
    """Keeps a second runner out of ROOT. The kernel releases the lock, however this process ends."""
    root.mkdir(parents=True, exist_ok=True)
    with open(root / ".lock", "w", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(f"dir={root} is in use by another process: wait for it, or choose another dir") from None
        yield


def _run(entry: Entry, ledger: Ledger, view: View, clone: Path, pause: float, received: list[int]) -> None:
    """Runs one job to its end, with its output in its log."""
    before, start = entry.seconds, time.monotonic()
    entry.status, entry.code = Status.running, None
    ledger.write()
    view.began(entry)
    job = entry.job
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        log.write(f"$ {job.command}\n".encode())
        log.flush()
        begin = log.tell()
        child = subprocess.Popen(
            job.argv(clone), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=_die_with(os.getpid()),
        )  # fmt: skip
    noted, told = start, 0
    while (code := _wait(child, pause)) is None:
        for signum in received[told:]:
            child.send_signal(signum)
            told += 1
        now = time.monotonic()
        entry.seconds = before + now - start
        if now - noted > NOTE_EVERY:
            ledger.write()
            noted = now
        view.tick(entry, now - start)
    entry.seconds, entry.code = before + time.monotonic() - start, code
    if code == 0:
        entry.status = Status.done
    else:
        entry.status = Status.waiting if received else Status.failed
    ledger.write()
    view.ended(entry, last_lines(job.log, begin) if entry.status is Status.failed else [])


def last_lines(log: Path, begin: int, most: int = LAST_LINES) -> list[str]:
    """The last lines of a log that were written from byte `begin` on, without empty ones."""
    with log.open("rb") as file:
        file.seek(begin)
        text = file.read().decode("utf-8", errors="replace")
    return [line.rstrip() for line in text.splitlines() if line.strip()][-most:]


def _wait(child: subprocess.Popen[bytes], seconds: float) -> int | None:
    """The exit code of the child, None if it is still at work after so many seconds."""
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _die_with(parent: int) -> Callable[[], None]:
    """What a new child does first: it asks the kernel for its own death when this process dies, or has died already."""

    def ask() -> None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return ask


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that have asked this process to stop since then. They do nothing by themselves."""
    received: list[int] = []

    def note(signum: int, _frame: Any) -> None:
        received.append(signum)

    before = {signum: signal.signal(signum, note) for signum in caught_signals()}
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
