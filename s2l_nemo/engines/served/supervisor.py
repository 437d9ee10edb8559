"""The process between the trainer and an engine: the trainer's child and the engine's parent.

It ends the engine and all that the engine has started. It does so when the engine has ended, when the trainer is gone
for whatever reason, and on SIGTERM. If it is killed itself, the engine ends with it. If it was stopped (SIGSTOP), the
end of the trainer wakes it. It needs nothing but the standard library and does nothing but wait, so an engine that
hangs in C code cannot keep it from its work.

The engine has a temporary folder of its own as TMPDIR, which goes with it: a killed Ray cannot remove its files.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import tempfile
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.2  # how soon it notices that the trainer is gone
_REAP_S = 0.01
_SIGNALS = {signal.SIGCHLD, signal.SIGTERM}


def supervise(folder: str) -> int | None:
    """Forks the engine's process. Returns None in it at once, and its exit status here once everything has ended.

    `folder` is the engine's temporary folder. It exists, and is removed at the end. The trainer holds the other end of
    this process's standard input.
    """
    trainer, supervisor = os.getppid(), os.getpid()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)  # what the engine leaves behind becomes a child of this process
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)  # which does nothing to a process that runs
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    engine = os.fork()
    if engine == 0:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:  # it was killed before the line above
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        return None
    os.dup2(2, 1)  # so that standard output ends with the engine
    status = _wait(engine, trainer)
    _end_children()
    shutil.rmtree(folder, ignore_errors=True)
    return status


def _wait(engine: int, trainer: int) -> int:
    hang_up = select.poll()
    hang_up.register(0, 0)  # nothing but the end of the other side
    while True:
        done, status = os.waitpid(engine, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        caught = signal.sigtimedwait(_SIGNALS, _POLL_S)
        told = caught is not None and caught.si_signo == signal.SIGTERM
        # A forked child of the trainer may hold the pipe open, so the parent's id is looked at too.
        if told or hang_up.poll(0) or os.getppid() != trainer:
            return 128 + signal.SIGTERM


def _end_children() -> None:
    """Kills and reaps children until there are none; those of a dead child come to this process."""
    with contextlib.suppress(ChildProcessError):  # there are none
        while True:
            for child in _children():
                os.kill(child, signal.SIGKILL)  # it has not been reaped, so its number is not another's
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
            time.sleep(_REAP_S)


def _children() -> list[int]:
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            fields = Path("/proc", name, "stat").read_bytes().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
        if int(fields[1]) == os.getpid():
            found.append(int(name))
    return found
