"""A pool of worker processes that can be killed. A check that hangs, explodes or crashes costs only its own verdict."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from s2l_nemo.config.schema import RewardsConfig
from s2l_nemo.errors import UserError
from s2l_nemo.rewards.worker import receive, send

Arguments = tuple[str, ...]
_END_S = 5.0  # that a worker may take to end its child and itself


@dataclass(frozen=True)
class Outcome:
    """The value of a check, or the reason in one line why there is none."""

    value: Any = None
    error: str | None = None


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    ready: bool = False
    check: Arguments | None = None  # in flight
    sent: float = field(default=0.0)

    @property
    def requests(self) -> int:
        assert self.process.stdin is not None
        return self.process.stdin.fileno()

    @property
    def replies(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()


class WorkerPool:
    """Runs checks in `rewards.workers` processes, which the first check starts. One thread at a time may use it.

    `fn` is the function that a check calls, "package.module:function". None stands for `equivalence.equivalent`.
    """

    def __init__(self, rewards: RewardsConfig, fn: str | None = None, arguments: int = 3) -> None:
        """`fn` takes so many texts: a reward function has three."""
        self._rewards = rewards
        self._fn = fn
        self._arguments = arguments
        self.source: str | None = None  # SHA-256 of the file of `fn`, once a worker is ready
        self._workers: list[_Worker] = []
        self._retried: set[Arguments] = set()  # checks of this batch that a wall limit has stopped once

    def run(self, checks: Sequence[Arguments]) -> list[Outcome]:
        """Outcomes in the order of the checks. Equal checks run once. Takes no longer than `rewards.batch_s`.

        Raises UserError if the workers cannot load what they need.
        """
        outcomes: dict[Arguments, Outcome] = {}
        todo = deque(dict.fromkeys(checks))
        deadline = time.monotonic() + self._rewards.batch_s
        while todo or any(worker.check for worker in self._workers):
            if time.monotonic() >= deadline:
                self._expire()
                break
            self._start(len(todo))
            for worker in self._workers:
                if worker.ready and worker.check is None and todo:
                    self._send(worker, todo.popleft())
            self._collect(deadline, outcomes, todo)
        self._retried.clear()
        late = Outcome(error=f"not checked within rewards.batch_s={self._rewards.batch_s:g} s of the batch")
        return [outcomes.get(check, late) for check in checks]

    def load(self) -> None:
        """Starts one worker and waits for it. Raises UserError if it cannot load the function."""
        self._start(1)
        deadline = time.monotonic() + self._rewards.batch_s
        while not self._workers[0].ready:
            if time.monotonic() > deadline:
                self.close()
                raise UserError(f"rewards.fn={self._fn} is not loaded after {self._rewards.batch_s:g} s")
            self._collect(deadline, {}, deque())

    def close(self) -> None:
        """Ends all workers. None is left, not even as a zombie. A later check starts new ones."""
        for worker in list(self._workers):
            self._end(worker)

    def _start(self, wanted: int) -> None:
        busy = sum(worker.check is not None for worker in self._workers)
        while len(self._workers) < min(self._rewards.workers, busy + wanted):
            # exec and not fork: this process may hold threads of torch or MPI. PYTHONPATH gives it the same modules.
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "0"}
            process = subprocess.Popen(
                [sys.executable, "-m", "s2l_nemo.rewards.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the parent; and a worker is killed together with its child
            )
            worker = _Worker(process)
            keys = ("cpu_s", "memory_mb", "tolerance")
            self._workers.append(worker)
            send(
                worker.requests,
                {"fn": self._fn, "arguments": self._arguments} | {key: getattr(self._rewards, key) for key in keys},
            )

    def _send(self, worker: _Worker, check: Arguments) -> None:
        worker.check, worker.sent = check, time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # killed from outside: `_take` will find the end of its replies
            send(worker.requests, check)

    def _collect(self, deadline: float, outcomes: dict[Arguments, Outcome], todo: deque[Arguments]) -> None:
        """Waits for replies or for a limit. Fills `outcomes` and gives each free worker its next check from `todo`."""
        limits = [worker.sent + self._rewards.wall_s for worker in self._workers if worker.check]
        timeout = min([deadline, *limits]) - time.monotonic()
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.replies, selectors.EVENT_READ, worker)
            events = selector.select(max(timeout, 0.0))
        for key, _ in events:
            self._take(key.data, outcomes)
            if todo and key.data.ready and key.data.check is None and key.data in self._workers:
                self._send(key.data, todo.popleft())
        now = time.monotonic()
        for worker in list(self._workers):
            if worker.check and now >= worker.sent + self._rewards.wall_s:
                if worker.check in self._retried:
                    outcomes[worker.check] = Outcome(error=f"killed after {self._rewards.wall_s:g} s, twice")
                else:  # the machine was busy, or the check waits for something: CPU time tells, wall time does not
                    self._retried.add(worker.check)
                    todo.append(worker.check)
                self._end(worker)

    def _take(self, worker: _Worker, outcomes: dict[Arguments, Outcome]) -> None:
        """Reads one message of a worker and acts on it."""
        try:
            message = receive(worker.replies)
        except EOFError:  # the supervisor itself was killed from outside
            if not worker.ready:
                raise RuntimeError("a grading worker ended while it started; its error is above") from None
            if worker.check:
                outcomes[worker.check] = Outcome(error="the worker was killed from outside")
            self._end(worker)
            return
        if "fatal" in message:
            self.close()
            raise UserError(f"the grading workers cannot start: {message['fatal']}")
        if "refused" in message:
            self.close()
            raise UserError(str(message["refused"]))
        if "ready" in message:
            worker.ready, self.source = True, message["source"]
        elif worker.check is not None:  # else a child died between two checks and has been replaced
            outcomes[worker.check] = Outcome(message.get("value"), message.get("error"))
            worker.check = None

    def _expire(self) -> None:
        for worker in list(self._workers):
            if worker.check or not worker.ready:
                self._end(worker)

    def _end(self, worker: _Worker) -> None:
        """Ends a worker. Its supervisor kills and reaps the child, and is then reaped here."""
        self._workers.remove(worker)
        worker.process.terminate()
        try:
            worker.process.wait(_END_S)
        except subprocess.TimeoutExpired:  # it is stopped, or still imports with its signals blocked
            os.killpg(worker.process.pid, signal.SIGKILL)
            worker.process.wait()
        for stream in (worker.process.stdin, worker.process.stdout):
            assert stream is not None
            stream.close()


def reward_source(rewards: RewardsConfig) -> str | None:
    """The fingerprint of the file of `rewards.fn`, if there is one. A worker imports it.

    Raises UserError if that fails, or the function takes other arguments.
    """
    if rewards.fn is None:
        return None
    pool = WorkerPool(rewards, rewards.fn)
    try:
        pool.load()
    finally:
        pool.close()
    return pool.source
