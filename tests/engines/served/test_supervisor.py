"""However a trainer, a supervisor or an engine ends, nothing that they started is left. Real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.engines.served import supervisor

ROOT = Path(__file__).resolve().parents[3]
# An engine with a temporary file, and a worker in a session of its own, which nobody waits for.
ENGINE = """
import os, subprocess, sys, tempfile, time
from s2l_nemo.engines.served.supervisor import supervise
status = supervise(tempfile.mkdtemp())
if status is not None:
    sys.exit(status)
tempfile.mkstemp()
script = "import os, time; print(os.getppid(), os.getpid(), flush=True); time.sleep(1000)"
subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
time.sleep(1000)
"""
# A trainer, of which a forked child holds the supervisor's standard input open.
TRAINER = f"""
import os, subprocess, sys, time
supervisor = subprocess.Popen([sys.executable, "-c", {ENGINE!r}], stdin=subprocess.PIPE, start_new_session=True)
holder = os.fork()
if holder == 0:
    time.sleep(1000)
print(supervisor.pid, holder, flush=True)
sys.stdin.readline()
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Processes:
    """A trainer, its supervisor, the engine and the engine's worker."""

    def __init__(self, temporary: Path) -> None:
        self.temporary = temporary
        self.process = subprocess.Popen(
            [sys.executable, "-c", TRAINER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
            text=True,
        )
        assert self.process.stdout is not None
        self.trainer = self.process.pid
        self.supervisor, self.holder = map(int, self.process.stdout.readline().split())
        self.engine, self.worker = map(int, self.process.stdout.readline().split())

    def gone(self) -> bool:
        return not any(alive(pid) for pid in (self.supervisor, self.engine, self.worker))


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    started = Processes(tmp_path)
    assert alive(started.worker)
    [own] = tmp_path.iterdir()
    assert len(list(own.iterdir())) == 1
    yield started
    for pid in (started.holder, started.trainer, started.supervisor, started.engine, started.worker):
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
    started.process.wait()
    for stream in (started.process.stdin, started.process.stdout):
        assert stream is not None
        stream.close()


@pytest.mark.parametrize(
    "end",
    [
        lambda p: os.kill(p.trainer, signal.SIGKILL),
        lambda p: p.process.stdin.close(),  # it exits without a word
        lambda p: os.kill(p.engine, signal.SIGKILL),
        lambda p: os.kill(p.engine, signal.SIGSEGV),
        lambda p: os.kill(p.supervisor, signal.SIGTERM),
    ],
    ids=["trainer killed", "trainer exits", "engine killed", "engine crashes", "supervisor told"],
)
def test_nothing_is_left(processes: Processes, end: Callable[[Processes], None]) -> None:
    end(processes)
    until(processes.gone)
    assert list(processes.temporary.iterdir()) == []


def test_a_closed_pipe_is_the_end_too(tmp_path: Path) -> None:
    """So it is noticed if the trainer died before the supervisor knew whose child it is."""
    supervisor = subprocess.Popen(
        [sys.executable, "-c", ENGINE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        start_new_session=True,
    )
    assert supervisor.stdin is not None
    assert supervisor.stdout is not None
    pids = [int(pid) for pid in supervisor.stdout.readline().split()]
    supervisor.stdin.close()
    supervisor.stdout.close()
    assert supervisor.wait(20) == 128 + signal.SIGTERM
    assert not any(map(alive, pids))


def test_a_stopped_engine_ends_too(processes: Processes) -> None:
    os.kill(processes.engine, signal.SIGSTOP)
    os.kill(processes.trainer, signal.SIGKILL)
    until(processes.gone)


def test_a_stopped_supervisor_ends_with_its_trainer(processes: Processes) -> None:
    """Found by benchmarks/soak.py: engines outlived a run, one of whose supervisors had been stopped."""
    os.kill(processes.supervisor, signal.SIGSTOP)
    until(lambda: "T (stopped)" in Path(f"/proc/{processes.supervisor}/status").read_text())
    os.kill(processes.trainer, signal.SIGKILL)
    until(processes.gone)
    assert list(processes.temporary.iterdir()) == []


def test_the_engine_ends_with_a_killed_supervisor(processes: Processes) -> None:
    os.kill(processes.supervisor, signal.SIGKILL)
    until(lambda: not alive(processes.engine))


def test_a_process_that_ends_while_the_list_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found at random: the supervisor fell over another process of the machine, and its engine's workers stayed."""
    gone = f"/proc/{os.getppid()}/stat"

    def fails_for_one(function: Any) -> Any:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            if str(path) == gone:
                raise ProcessLookupError(3, "No such process", gone)
            return function(path, *arguments, **options)

        return call

    monkeypatch.setattr(os, "stat", fails_for_one(os.stat))
    monkeypatch.setattr(Path, "read_bytes", fails_for_one(Path.read_bytes))
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert child.pid in supervisor._children()
    child.communicate()
