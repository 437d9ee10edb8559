"""Gives each reader its inputs in a child process, and goes on behind an input that kills or hangs it."""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.reader import Reader
from tests.fuzz.work import ROOT, Finding, State, received, work

CORPUS = ROOT / "tests" / "fuzz" / "corpus"
HUNG_S = 120.0  # without a new input: code outside of Python does not see the limit of processor time
LOG = "log"  # what a child prints
_LOOK_S = 0.2


@dataclass(frozen=True)
class Outcome:
    """What has come of one reader."""

    reader: str
    seed: int
    inputs: int
    accepted: int  # read without an error
    refused: int
    seconds: float
    findings: list[Finding]

    def to_json(self) -> dict[str, object]:
        return {
            "reader": self.reader,
            "seed": self.seed,
            "inputs": self.inputs,
            "accepted": self.accepted,
            "refused": self.refused,
            "seconds": round(self.seconds, 2),
            "inputs_per_s": round(self.inputs / self.seconds, 1),
            "findings": [one.to_json() for one in self.findings],
        }


def corpus_of(reader: str, corpus: Path = CORPUS) -> list[bytes]:
    """The inputs that were findings once."""
    return [path.read_bytes() for path in sorted((corpus / reader).glob("*"))]


def keep(found: Sequence[Finding], corpus: Path = CORPUS) -> None:
    """Adds the inputs of findings to the corpus, under their hashes."""
    for one in found:
        if one.content:
            (corpus / one.reader).mkdir(parents=True, exist_ok=True)
            (corpus / one.reader / str(one.to_json()["content"])).write_bytes(one.content)


def fuzz(
    reader: Reader, seed: int, inputs: int, say: Callable[[str], None] = lambda _: None, corpus: Path = CORPUS
) -> Outcome:
    """Reads the reader's corpus and `inputs` random inputs."""
    started = time.monotonic()
    findings: list[Finding] = []
    start = accepted = refused = 0
    while start < inputs:
        state = State()
        found, died = _child(reader, seed, range(start, inputs), corpus_of(reader.name, corpus), state, say)
        number, more_accepted, more_refused = state.get()
        findings += found
        accepted, refused = accepted + more_accepted, refused + more_refused
        if died is None or number >= inputs:
            break
        findings.append(Finding(reader.name, number, died, "the process", b""))
        if len(findings) > 5:
            break
        start = number + 1
    return Outcome(
        reader.name,
        seed,
        accepted + refused,
        accepted,
        refused,
        max(time.monotonic() - started, 1e-9),
        _distinct(findings),
    )


def _distinct(findings: Sequence[Finding]) -> list[Finding]:
    return list({(one.where, one.what.partition(":")[0]): one for one in reversed(findings)}.values())[::-1]


def _child(
    reader: Reader, seed: int, inputs: range, corpus: list[bytes], state: State, say: Callable[[str], None]
) -> tuple[list[Finding], str | None]:
    """Findings of a child, and how it ended if that was not by itself."""
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a disk would be most of the time
    folder = Path(tempfile.mkdtemp(prefix="s2l_nemo_fuzz_", dir=in_memory))
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)
        code, log = 1, os.open(folder / LOG, os.O_CREAT | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        try:
            work(reader, folder, seed, inputs, corpus, state, into)
            code = 0
        finally:
            os._exit(code)
    os.close(into)
    try:
        text, hung = _watched(child, out, state, say)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        last_words = " ".join((folder / LOG).read_bytes()[-500:].decode(errors="replace").split())
    finally:
        os.close(out)
        shutil.rmtree(folder, ignore_errors=True)
    died = (
        f"does not return within {HUNG_S:g} s"
        if hung
        else f"the process ends with {code}: {last_words}"
        if code
        else None
    )
    return received(text[: text.rfind("\n") + 1]), died


def _watched(child: int, out: int, state: State, say: Callable[[str], None]) -> tuple[str, bool]:
    """What the child writes until its end, and whether it had to be killed."""
    text, hung = b"", False
    number, since = -1, time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(out, selectors.EVENT_READ)
        while True:
            if selector.select(_LOOK_S):
                part = os.read(out, 2**16)
                if not part:
                    return text.decode(), hung
                text += part
            at, accepted, refused = state.get()
            say(f"{accepted + refused:,} inputs, {text.count(10)} findings")
            if at != number:
                number, since = at, time.monotonic()
            elif time.monotonic() - since > HUNG_S:
                hung = True
                os.kill(child, signal.SIGKILL)
