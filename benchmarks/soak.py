"""A long run with served engines and a random fault in every fifty steps: does anything leak, is anything lost?

    python benchmarks/soak.py [--steps 2000] [--every 50] [--seed 0] [--output FILE] [key=value ...]

The faults: a server is killed, a server is stopped (SIGSTOP), a rank stands still for some seconds, the disk is full.
For the last the run lies in a small tmpfs, which needs root. The run ends with its line and exit code 2, space is made,
and the same command goes on. Then comes the same run without a fault; final weights must be equal bit for bit.

Each `--sample` steps it counts processes, open files, shared memory, temporary files and the memory of ranks. A slope
is fitted over all lives of the process together, each with a level of its own. The exit code is 1 if anything is left
or differs. Needs the tiny family.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone without installation

import numpy as np
import psutil

from s2l_nemo.models.checkpoints.compare import compare
from s2l_nemo.models.checkpoints.open import open_checkpoint

ROOT = Path(__file__).resolve().parent.parent
SMALLEST = (
    "algorithm.prompts_per_step=2", "algorithm.group_size=4", "algorithm.schedule.name=constant",
    "algorithm.schedule.alpha=0.5", "model.micro_batch_size=4", "rollout.max_response_length=24", "validation.every=0",
    "checkpoint.every=25", "checkpoint.keep=2", "engine.kind=server", "engine.request_s=15", "engine.max_restarts=1000",
)  # fmt: skip
DISK_MB = 192
STANDS_STILL_S = 4.0
LEFT = ("left_processes", "left_in_shared_memory", "left_temporary")
WARM_UP = 150  # steps in which a process reaches its size


class Fault(StrEnum):
    """What happens to the run."""

    SERVER_KILLED = "server killed"
    SERVER_STOPPED = "server stopped"
    RANK_SLOW = "rank slow"
    DISK_FULL = "disk full"


@dataclass
class Sample:
    """What the run holds at a step: of its ranks and all that they have started."""

    life: int
    step: int
    processes: int
    files: int
    ranks_mb: float  # private and shared pages of the ranks, each page counted once
    servers_mb: float
    shared: int  # files in /dev/shm
    temporary: int


class Run:
    """One training command, over all its lives."""

    def __init__(self, options: argparse.Namespace, folder: Path, scratch: Path) -> None:
        scratch.mkdir()
        self.folder, self.scratch, self.log = folder, scratch, scratch.with_suffix(".log")
        keys = [*SMALLEST, f"algorithm.steps={options.steps}", f"run.seed={options.seed + 1}", *options.overrides]
        self._command = [sys.executable, "recipes/train_s2l.py", *keys, f"run.dir={folder}"]
        self.life = -1

    def start(self) -> None:
        # bits are promised for the same number of threads
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(self.scratch)}
        with self.log.open("ab") as output:
            self.process = psutil.Popen(
                self._command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
            )
        self.life += 1

    @property
    def step(self) -> int:
        """Steps whose metrics are written."""
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "metrics.jsonl").read_bytes().count(b"\n")
        return 0

    def ranks(self) -> list[psutil.Process]:
        own = _words(self.process)
        return [one for one in self.process.children() if _words(one) == own]  # its forks

    def servers(self) -> list[psutil.Process]:
        everybody = self.process.children(recursive=True)
        return [one for one in everybody if "s2l_nemo.engines.served.server" in _words(one)]

    def sample(self) -> Sample:
        everybody = [self.process, *self.process.children(recursive=True)]
        return Sample(
            life=self.life,
            step=self.step,
            processes=len(everybody),
            files=sum(one.num_fds() for one in everybody),
            ranks_mb=sum(one.memory_full_info().pss for one in self.ranks()) / 1e6,
            servers_mb=sum(one.memory_full_info().pss for one in self.servers()) / 1e6,
            shared=len(list(Path("/dev/shm").iterdir())),
            temporary=sum(1 for _ in self.scratch.rglob("*")),
        )

    def left(self) -> list[str]:
        """What still runs of all that this run's lives have started, once the last one has ended."""
        found = []
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if one.environ().get("TMPDIR", "").startswith(str(self.scratch)):
                    found.append(f"{one.status()}: {' '.join(one.cmdline())}")
        return found

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def _words(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        words: list[str] = process.cmdline()
        return words
    return []


def inflict(fault: Fault, run: Run, rng: random.Random) -> None:
    """Lets it happen, and waits where the run must end."""
    with contextlib.suppress(psutil.NoSuchProcess):
        match fault:
            case Fault.SERVER_KILLED:
                rng.choice(run.servers()).kill()
            case Fault.SERVER_STOPPED:
                rng.choice(run.servers()).suspend()
            case Fault.RANK_SLOW:
                rank = rng.choice(run.ranks())
                rank.suspend()
                time.sleep(STANDS_STILL_S)
                rank.resume()
            case Fault.DISK_FULL:
                ballast = run.folder.parent / "ballast"
                fill(ballast)
                run.process.wait(600)
                ballast.unlink()


def fill(path: Path) -> None:
    """Takes all space of a file system."""
    with path.open("wb", buffering=0) as file:
        block = bytes(1 << 20)
        while len(block):
            try:
                file.write(block)
            except OSError:
                block = block[: len(block) // 2]


def train(run: Run, options: argparse.Namespace, faults: Sequence[Fault]) -> dict[str, Any]:
    """Trains to the end. The n-th fault comes at a random step of the n-th fifty."""
    rng = random.Random(options.seed)
    due = [(n * options.every + rng.randrange(1, options.every), fault) for n, fault in enumerate(faults)]
    happened: list[dict[str, Any]] = []
    samples: list[Sample] = []
    codes: Counter[int] = Counter()
    began = time.perf_counter()
    run.start()
    while True:
        code = run.process.poll()
        if code is not None:
            codes[code] += 1
            if code == 0:
                break
            if code != 2 or not happened or happened[-1]["fault"] != Fault.DISK_FULL:
                raise SystemExit(f"the run ended with {code} at step {run.step}:\n{run.log.read_text()[-3000:]}")
            run.start()
        if run.step // options.sample > (samples[-1].step // options.sample if samples else -1):
            with contextlib.suppress(psutil.Error):
                samples.append(run.sample())
        if due and run.step >= due[0][0] and run.ranks() and run.servers():
            fault = due.pop(0)[1]
            happened.append({"step": run.step, "fault": fault, "life": run.life})
            inflict(fault, run, rng)
        time.sleep(0.02)
    restarts = [json.loads(line)["engine/restarts"] for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "seconds": time.perf_counter() - began,
        "lives": run.life + 1,
        "exit_codes": dict(codes),
        "faults": happened,
        "not_inflicted": [fault for _, fault in due],
        "restarts_of_engines": sum(max(0, after - before) for before, after in pairwise([0, *restarts])),
        "left_processes": run.left(),
        "left_in_shared_memory": len(list(Path("/dev/shm").iterdir())),
        "left_temporary": sorted(
            str(path.relative_to(run.scratch))
            for path in run.scratch.rglob("*")
            if not path.name.startswith("torchinductor_")  # torch's cache, one for all runs of a user
        ),
        "slopes_in_1000_steps": slopes(samples),
        "samples": [asdict(one) for one in samples],
    }


def slopes(samples: Sequence[Sample]) -> dict[str, float | None]:
    """Least squares over steps, with a level for each life, without the steps of its warm-up. None: there were no more
    steps."""
    found: dict[str, float | None] = {}
    for name in ("processes", "files", "ranks_mb", "servers_mb", "shared", "temporary"):
        x: list[float] = []
        y: list[float] = []
        for life in sorted({one.life for one in samples}):
            mine = [one for one in samples if one.life == life]
            mine = [one for one in mine if one.step >= mine[0].step + WARM_UP]
            if len(mine) > 1:
                steps, values = np.array([one.step for one in mine]), np.array([getattr(one, name) for one in mine])
                x += (steps - steps.mean()).tolist()
                y += (values - values.mean()).tolist()
        found[name] = 1000 * float(np.dot(x, y) / np.dot(x, x)) if x else None
    return found


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of `DISK_MB` megabytes in memory."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def compared(one: Path, other: Path) -> list[str]:
    """What differs between the final weights of two runs."""
    mine, theirs = open_checkpoint(one / "final.nemo"), open_checkpoint(other / "final.nemo")
    return [str(difference) for difference in compare(mine, theirs, progress=lambda _: None)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=50, help="steps of one fault")
    parser.add_argument("--sample", type=int, default=10, help="steps between two samples")
    parser.add_argument("--seed", type=int, default=0, help="of faults and their moments")
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    kinds = list(Fault)
    random.Random(options.seed).shuffle(kinds)
    faults = [kinds[n % len(kinds)] for n in range(options.steps // options.every)]
    with tempfile.TemporaryDirectory() as name, small_disk(Path(name) / "disk") as disk:
        disturbed = Run(options, disk / "run", Path(name) / "disturbed")
        whole = Run(options, Path(name) / "whole", Path(name) / "undisturbed")
        try:
            figures = {"disturbed": train(disturbed, options, faults), "undisturbed": train(whole, options, [])}
            figures["differences"] = {"final.nemo": compared(disturbed.folder, whole.folder)}
        finally:
            for run in (disturbed, whole):
                if run.life >= 0:
                    run.end()
    shown = {
        name: {key: value for key, value in part.items() if key not in ("samples", "faults")}
        for name, part in figures.items()
    }
    print(json.dumps(shown, indent=2))
    if options.output:
        settings = {key: value for key, value in vars(options).items() if key != "output"}
        options.output.write_text(json.dumps({"settings": settings, "results": figures}, indent=2) + "\n")
    left = [figures[run][kind] for run in ("disturbed", "undisturbed") for kind in LEFT]
    return 1 if any(left) or figures["differences"]["final.nemo"] else 0


if __name__ == "__main__":
    sys.exit(main())
