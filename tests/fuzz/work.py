"""One reader's inputs, in a process of its own: what each does, and which one is being read if it does not return."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import resource
import signal
import struct
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import NoReturn

from tests.fuzz.guard import Guard, use_temporary_files_of
from tests.fuzz.reader import Harness, Reader

ROOT = Path(__file__).resolve().parents[2]
CPU_S = 10.0  # of one input; most take a millisecond
MEMORY = 512 * 2**20  # bytes that reading may add to what the process has
LONGEST = 3000  # characters of a message
SHOWN_FINDINGS = 20  # different ones of a reader; then it is not worth going on
_STATE = struct.Struct("<3q")  # the number of the input at work, inputs read, inputs refused


@dataclass(frozen=True)
class Finding:
    """What an input did that it should not have. `number` gives it again; -1: it is of the corpus."""

    reader: str
    number: int
    what: str
    where: str  # the deepest place in this project, by which findings are told apart
    content: bytes

    def to_json(self) -> dict[str, object]:
        kept = hashlib.sha256(self.content).hexdigest()[:16]
        return {**asdict(self), "content": kept, "bytes": len(self.content)}


class TooSlow(BaseException):
    """No Exception, so that no reader takes it for damage."""


def input_of(harness: Harness, reader: str, seed: int, number: int) -> bytes:
    """The input of this number. The same arguments give the same bytes."""
    random = Random(f"{reader}/{seed}/{number}")
    return harness.mutate(random, random.choice(harness.seeds), harness.seeds)


class State:
    """Where a child is, in memory that its parent sees."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _STATE.size)
        self.set(0, 0, 0)

    def set(self, number: int, accepted: int, refused: int) -> None:
        _STATE.pack_into(self._memory, 0, number, accepted, refused)

    def get(self) -> tuple[int, int, int]:
        number, accepted, refused = _STATE.unpack_from(self._memory, 0)
        return number, accepted, refused


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raises TooSlow in the midst of Python code that has computed for so long."""

    def late(_signum: int, _frame: object) -> NoReturn:
        raise TooSlow(f"computes for more than {seconds:g} s")

    signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


class Worker:
    """A prepared reader and its limits. One of a process."""

    def __init__(self, reader: Reader, folder: Path) -> None:
        inside = folder / "files"
        inside.mkdir()
        use_temporary_files_of(inside / "tmp")
        self.reader = reader
        self.harness = reader.prepare(inside)
        self._guard = Guard(inside, ROOT)
        for seed in self.harness.seeds:  # also imports what is imported late
            self._put(seed)
            self.harness.read(seed)
        self._memory = _peak_memory() + MEMORY

    def finding(self, number: int, content: bytes) -> tuple[Finding | None, bool]:
        """What is wrong with the reading of an input, and whether it was accepted."""
        self._put(content)
        what, where, accepted = "", "", False
        with self._guard.watch(may_write=self.harness.may_write) as seen:
            try:
                with cpu_limit(CPU_S):
                    self.harness.read(content)
                accepted = True
            except self.harness.refusals as error:
                message = str(error)
                if len(message) > LONGEST or not message.isprintable():
                    what, where = f"a message that is no line: {message[:200]!r}", _place(error)
            except (Exception, TooSlow) as error:
                what, where = f"{type(error).__name__}: {str(error)[:300]}", _place(error)
        if seen:
            what, where = "; ".join(dict.fromkeys(seen))[:500], "touches the outside"
        if _peak_memory() > self._memory:
            self._memory = _peak_memory() + MEMORY
            what, where = f"takes more than {MEMORY >> 20} MiB", "memory"
        return (Finding(self.reader.name, number, what, where, content) if what else None), accepted

    def _put(self, content: bytes) -> None:
        if self.harness.file is not None:
            self.harness.file.write_bytes(content)


def _peak_memory() -> int:
    """Bytes that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _place(error: BaseException) -> str:
    """File and line of the deepest frame in this project, else of the deepest one."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(f"{ROOT}/s2l_nemo")] or list(frames)
    name = os.path.relpath(ours[-1].filename, ROOT) if ours else "?"
    return f"{name}:{ours[-1].lineno}" if ours else name


def work(reader: Reader, folder: Path, seed: int, inputs: range, corpus: list[bytes], state: State, out: int) -> None:
    """Reads the corpus (if the range begins with 0), then these inputs. Writes each kind of finding once, as a line of
    JSON and a line of hexadecimal bytes, to the descriptor `out`."""
    try:
        worker = Worker(reader, folder)
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        _send(out, Finding(reader.name, -1, f"a seed is not read: {type(error).__name__}: {error}", _place(error), b""))
        return
    known: set[str] = set()
    accepted = refused = 0
    numbered = [(-1, content) for content in corpus] if inputs.start == 0 else []
    for number, content in numbered:
        found, _ = worker.finding(number, content)
        if found:
            _send(out, found)
    for number in inputs:
        state.set(number, accepted, refused)
        content = input_of(worker.harness, reader.name, seed, number)
        found, was_accepted = worker.finding(number, content)
        accepted, refused = accepted + was_accepted, refused + (not was_accepted)
        if found and found.where not in known:
            known.add(found.where)
            _send(out, found)
            if len(known) >= SHOWN_FINDINGS:
                break
    state.set(inputs.stop, accepted, refused)


def _send(out: int, found: Finding) -> None:
    line = json.dumps({**asdict(found), "content": found.content.hex()}).encode() + b"\n"
    while line:
        line = line[os.write(out, line) :]


def received(text: str) -> list[Finding]:
    """What `work` has written."""
    lines = [json.loads(line) for line in text.splitlines()]
    return [Finding(**{**line, "content": bytes.fromhex(line["content"])}) for line in lines]


def seconds_since(start: float) -> float:
    return time.monotonic() - start
