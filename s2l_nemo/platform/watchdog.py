"""Names a rank that has stopped or keeps the others waiting, with what it was doing.

Each rank tells the next lower one every few seconds that it lives, and where its main thread is. A process that a
signal has stopped, or whose machine is gone, tells nothing: without the watchdog the others would wait in a collective
until its timeout, and then say only that somebody did not come.
"""

from __future__ import annotations

import json
import math
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Any, NoReturn, Protocol

import torch

from s2l_nemo.platform.failures import CRASHED, Failure

BEATS = 20  # signs of life within the limit
SLOW = 0.1  # of the limit: how long the others may wait for a rank before it is called slow
FRAMES = 6  # of a stack, innermost last
# Whoever is here waits for others: in a collective, or for an engine, which has deadlines of its own.
WAITING = ("/torch/distributed/", "/s2l_nemo/trainer/ranks.py")


class Board(Protocol):
    """What all ranks can read and write, as torch's store."""

    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...
    def check(self, keys: list[str]) -> bool: ...


@dataclass(frozen=True)
class Sign:
    """A sign of life."""

    count: int
    host: str
    pid: int
    waits: bool
    place: str  # where the main thread is: the innermost line of this stack
    stack: str
    done: bool = False  # the rank leaves, and gives no more signs

    @classmethod
    def of(cls, count: int, thread: int, done: bool = False) -> Sign:
        """That of this process, whose main thread has this id."""
        frame = sys._current_frames().get(thread)
        lines = [] if frame is None else _lines(frame)
        waits = any(sign in line for line in lines for sign in WAITING)
        shown = lines[-FRAMES:]
        return cls(count, socket.gethostname(), os.getpid(), waits, shown[-1] if shown else "", "\n".join(shown), done)


def _lines(frame: FrameType) -> list[str]:
    return [f"  {one.filename}:{one.lineno} in {one.name}" for one in traceback.extract_stack(frame)]


@dataclass
class Watch:
    """What one rank knows of the one that it watches, and since when. Times are seconds of one clock."""

    rank: int  # the other one
    limit_s: float
    sign: Sign | None = None
    seen: float = 0.0  # when the last new sign came
    waiting: tuple[str, float] | None = None  # where this rank waits, and since when
    looked: float = -math.inf
    called_slow: str = ""  # where it was then

    def look(self, now: float, sign: Sign | None, own: Sign) -> str | None:
        """Takes the present signs of both. Returns what to say of the other rank if it is slow."""
        paused = now - self.looked > self.limit_s / 2  # this process was stopped itself, maybe with the other one
        if paused or (sign is not None and (self.sign is None or sign.count != self.sign.count)):
            self.seen = now
        if not own.waits or paused:
            self.waiting = None
        elif self.waiting is None or self.waiting[0] != own.stack:
            self.waiting = own.stack, now
        self.looked = now
        self.sign = sign or self.sign
        return self._slow(now)

    def lost(self, now: float) -> str | None:
        """What to say if the other rank has given no sign for too long."""
        if (self.sign is not None and self.sign.done) or now - self.seen < self.limit_s:
            return None
        who = "" if self.sign is None else f" (process {self.sign.pid} on {self.sign.host})"
        where = "" if self.sign is None else f". It was here:\n{self.sign.stack}"
        return (
            f"rank {self.rank}{who} has given no sign of life for run.watch_s={self.limit_s:g} seconds: it was "
            f"stopped, or its machine is gone{where}"
        )

    def _slow(self, now: float) -> str | None:
        if self.sign is None or self.sign.waits or self.sign.done or self.waiting is None:
            return None
        since = now - self.waiting[1]
        if since < SLOW * self.limit_s or self.sign.place == self.called_slow:
            return None
        self.called_slow = self.sign.place
        return f"rank {self.rank} is slow: another has waited {since:.0f} s for it. It is here:\n{self.sign.stack}"


@contextmanager
def watching(
    board: Board,
    rank: int,
    world: int,
    limit_s: float,
    end: Callable[[Failure], NoReturn],
    say: Callable[[str], None],
) -> Iterator[None]:
    """Watches the next rank meanwhile. Calls `end` once it is lost, `say` if it is slow. Alone a rank watches nobody.

    `board` must not be used by others, because it may wait for a rank 0 that has stopped.
    """
    if world == 1:
        yield
        return
    stop = threading.Event()
    main = threading.get_ident()
    arguments = (board, rank, (rank + 1) % world, limit_s, main, stop, end, say)
    thread = threading.Thread(target=_watch, args=arguments, daemon=True, name="watchdog")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(limit_s / BEATS)


def _watch(
    board: Board,
    rank: int,
    other: int,
    limit_s: float,
    main: int,
    stop: threading.Event,
    end: Callable[[Failure], NoReturn],
    say: Callable[[str], None],
) -> None:
    watch, count = Watch(other, limit_s), 0
    pool = ThreadPoolExecutor(1)  # a board on a rank that has stopped does not answer
    try:
        while True:
            count += 1
            own = Sign.of(count, main, done=stop.is_set())
            try:
                sign = pool.submit(_exchange, board, rank, other, own).result(limit_s)
            except TooLate:
                end(_no_answer(watch, limit_s))
            now = time.monotonic()
            if slow := watch.look(now, sign, own):
                say(slow)
            if lost := watch.lost(now):
                end(Failure(CRASHED, lost))
            if own.done:
                return
            stop.wait(limit_s / BEATS)
    except (
        torch.distributed.DistError
    ):  # the holder of the board has ended, and this rank will see it too: nothing is left to watch
        return
    finally:
        pool.shutdown(wait=False)


def _exchange(board: Board, rank: int, other: int, own: Sign) -> Sign | None:
    board.set(f"alive/{rank}", json.dumps(asdict(own)))
    if not board.check([f"alive/{other}"]):
        return None
    content: dict[str, Any] = json.loads(board.get(f"alive/{other}"))
    return Sign(**content)


def _no_answer(watch: Watch, limit_s: float) -> Failure:
    """Of the rank that holds the board. The one that watches it knows where it was, the others only its silence."""
    known = watch.sign is not None and watch.rank == 0
    silent = f"rank 0 has given no sign of life for run.watch_s={limit_s:g} seconds: it was stopped"
    where = f". It was here:\n{watch.sign.stack}" if known and watch.sign is not None else ""
    return Failure(CRASHED, silent + where, aftermath=not known)
