"""Ends training runs by SIGKILL at random moments, resumes them, and compares each with an uninterrupted run.

    python benchmarks/run_kills.py [--kills 200] [--seed 0] [--steps 8] [--output FILE] [key=value ...]

A run saves after each step. It is started, killed and started again by the same command until it ends by itself, then
a new run begins, until there were enough kills. A moment is random over the whole life of a process: one kill in three
falls anywhere from the start on, the others after the first sign of training. A kill meets the process that was
started, with which its ranks die, or one rank alone, in turns.

What is compared must be equal bit for bit: the weights in `final.nemo`, each line of `metrics.jsonl` but for times, the
rollouts of each step and the validations. The figures are written after each run, so a benchmark that is cut off has
those of the runs before. Needs the tiny family (`python tools/make_tiny_family.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone without installation

import pyarrow as pa
from pyarrow import parquet
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from s2l_nemo.models.checkpoints.compare import compare
from s2l_nemo.models.checkpoints.open import open_checkpoint

ROOT = Path(__file__).resolve().parent.parent
SMALL = (
    "algorithm.prompts_per_step=4", "algorithm.group_size=4", "algorithm.kl_coef=0.01", "model.micro_batch_size=4",
    "rollout.max_response_length=24", "validation.prompts=8", "validation.samples=2", "validation.every=2",
    "checkpoint.every=1", "checkpoint.keep=2", "data.arithmetic.train_prompts=40",
)  # fmt: skip
TIMED = ("time/", "throughput/", "total/seconds", "total/engine_seconds")
ENDS_S = 120  # by then a run that lost a rank has ended


@dataclass
class Life:
    """One process: from its start to its kill or its end."""

    run: int
    victim: str  # "all", "one rank" or "none"
    seconds: float
    steps: int  # complete checkpoints' newest step when it died
    code: int


def command(options: argparse.Namespace, run: Path) -> list[str]:
    keys = [*SMALL, f"algorithm.steps={options.steps}", f"algorithm.schedule.t_mix={options.steps // 2}"]
    return [sys.executable, "recipes/train_s2l.py", *keys, *options.overrides, f"run.dir={run}"]


def start(options: argparse.Namespace, run: Path, log: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # bits are promised for the same number of threads
    with log.open("ab") as output:
        return subprocess.Popen(
            command(options, run), cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )


def ranks_of(process: subprocess.Popen[bytes]) -> list[int]:
    """The process ids of its ranks, of those that are up: its forks, which have its command line."""
    try:
        own = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return [int(pid) for pid in children if Path(f"/proc/{pid}/cmdline").read_bytes() == own]
    except (FileNotFoundError, ProcessLookupError):
        return []  # it has just ended


def newest_step(run: Path) -> int:
    return max(
        (int(path.name[5:]) for path in (run / "checkpoints").glob("step_*") if path.name[5:].isdigit()), default=0
    )


def live(options: argparse.Namespace, run: Path, log: Path, number: int, rng: random.Random, whole: float) -> Life:
    """Starts the command and kills it at a random moment, unless it ends before."""
    before, began = newest_step(run), time.perf_counter()
    from_start, one_rank = rng.random() < 1 / 3, rng.random() < 1 / 2
    process = start(options, run, log)
    try:
        if not from_start:
            while newest_step(run) == before and process.poll() is None:
                time.sleep(0.01)
        deadline = time.perf_counter() + rng.uniform(0, whole if from_start else options.training_s)
        while time.perf_counter() < deadline and process.poll() is None:
            time.sleep(0.002)
        victim = "none"
        if process.poll() is None:
            ranks = ranks_of(process)
            victim = "one rank" if one_rank and ranks else "all"
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(ranks) if victim == "one rank" else process.pid, signal.SIGKILL)
        code = process.wait(ENDS_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return Life(number, victim, time.perf_counter() - began, newest_step(run), code)


def contents(run: Path) -> dict[str, str]:
    """SHA-256 of what two equal runs have in common, but for the weights."""
    found = {}
    for number, line in enumerate((run / "metrics.jsonl").read_text().splitlines(), 1):
        values = {key: value for key, value in json.loads(line).items() if not key.startswith(TIMED)}
        found[f"metrics of step {number}"] = sha256(json.dumps(values).encode())
    for path in sorted((run / "rollouts").glob("*.parquet")):
        found[f"rollouts/{path.name}"] = sha256(table_bytes(path))
    for path in sorted((run / "validation").iterdir()):
        found[f"validation/{path.name}"] = sha256(path.read_bytes())
    return found


def differences(run: Path, whole: Path) -> list[str]:
    """What differs between a run and the uninterrupted one."""
    files = {name for name, _ in contents(run).items() ^ contents(whole).items()}
    mine, theirs = open_checkpoint(run / "final.nemo"), open_checkpoint(whole / "final.nemo")
    weights = compare(mine, theirs, progress=lambda _: None)
    return sorted(files) + [f"final.nemo: {one}" for one in weights]


def table_bytes(path: Path) -> bytes:
    table = parquet.ParquetFile(path).read().replace_schema_metadata(None).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def uninterrupted(options: argparse.Namespace, run: Path, log: Path) -> float:
    began = time.perf_counter()
    if start(options, run, log).wait():
        raise SystemExit(f"the uninterrupted run failed:\n{log.read_text()[-2000:]}")
    return time.perf_counter() - began


def kill_and_compare(options: argparse.Namespace, folder: Path, save: Callable[[dict[str, Any]], None]) -> None:
    """Runs with kills until there were enough of them. Every run is compared, also the last one, and saved."""
    rng = random.Random(options.seed)
    whole = uninterrupted(options, folder / "whole", folder / "whole.log")
    lives: list[Life] = []
    differing: dict[int, list[str]] = {}
    runs = killed = 0
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task("kills", total=options.kills)
        while killed < options.kills:
            run, log = folder / f"run_{runs}", folder / f"run_{runs}.log"
            while not (lives and lives[-1].run == runs and lives[-1].code == 0):
                enough = killed >= options.kills
                life = live(options, run, log, runs, rng, whole) if not enough else last_life(options, run, log, runs)
                lives.append(life)
                killed += life.victim != "none"
                bar.update(task, completed=killed)
                if life.victim == "none" and life.code:
                    raise SystemExit(f"run {runs} ended with {life.code}:\n{log.read_text()[-3000:]}")
            different = differences(run, folder / "whole")
            if different:
                differing[runs] = different
            runs += 1
            save(summary(lives, differing, runs, whole))


def last_life(options: argparse.Namespace, run: Path, log: Path, number: int) -> Life:
    began = time.perf_counter()
    code = start(options, run, log).wait()
    return Life(number, "none", time.perf_counter() - began, newest_step(run), code)


def summary(lives: list[Life], differing: dict[int, list[str]], runs: int, whole: float) -> dict[str, Any]:
    kills = [life for life in lives if life.victim != "none"]
    return {
        "kills": len(kills),
        "of_all": sum(life.victim == "all" for life in kills),
        "of_one_rank": sum(life.victim == "one rank" for life in kills),
        "kills_by_newest_step": {str(step): count for step, count in sorted(Counter(k.steps for k in kills).items())},
        "runs": runs,
        "runs_that_differ": differing,
        "uninterrupted_s": whole,
        "lives": [asdict(life) for life in lives],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and victims")
    parser.add_argument("--steps", type=int, default=8, help="of a run")
    parser.add_argument(
        "--training-s", type=float, default=8.0, help="a kill comes at most so long after the first step"
    )
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    settings = {key: value for key, value in vars(options).items() if key != "output"}
    figures: dict[str, Any] = {}

    def save(found: dict[str, Any]) -> None:
        figures.update(found)
        if options.output:
            options.output.write_text(json.dumps({"settings": settings, "results": figures}, indent=2) + "\n")

    with tempfile.TemporaryDirectory() as name:
        kill_and_compare(options, Path(name), save)
    print(json.dumps({key: value for key, value in figures.items() if key != "lives"}, indent=2))
    return 1 if figures["runs_that_differ"] else 0


if __name__ == "__main__":
    sys.exit(main())
