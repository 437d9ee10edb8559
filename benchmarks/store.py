"""Measures a store of rollouts: the first opening, later ones, the draw of a step, and the memory of the process.

    python benchmarks/store.py [--rollouts 1000000] [--samples 16] [--tokens 200] [--folder DIR] [--output FILE]

The rollouts are random, of `--tokens` tokens each, in shards as `recipes/sample_explorer.py` writes them. Each figure
is of a new process that has imported torch: times begin after the imports, memory is all that is resident. A step draws
`--prompts` random prompts x `--samples`. Files are in the page cache, as after the first pass over them. Wall and CPU
time of a draw differ if other processes want the cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone without installation

import numpy as np
from rich.console import Console
from rich.table import Table

from s2l_nemo.config.schema import DrawOrder
from s2l_nemo.store.engine import StoreEngine
from s2l_nemo.store.facts import StoreFacts, hash_prompts, write_facts
from s2l_nemo.store.prompts import write_prompts
from s2l_nemo.store.reader import Store
from s2l_nemo.store.shards import FOLDER, Shard, write_shard
from s2l_nemo.types import Prompt, SampleRequest, SamplingParams, Source

VOCABULARY, STOP = 151_936, 151_935
CHUNK = 64  # prompts of a shard
STEPS = 21


def write_store(folder: Path, prompts: int, samples: int, tokens: int) -> None:
    rng = np.random.default_rng(0)
    questions = [
        Prompt(n, f"What is {n} + {n}?", str(2 * n), tuple(range(n % 1000, n % 1000 + 60))) for n in range(prompts)
    ]
    facts = StoreFacts(
        model="random",
        weight_hash="0" * 64,
        precision="bf16",
        vocab_size=VOCABULARY,
        tokenizer_hash="0" * 64,
        sampling=SamplingParams(tokens, (STOP,)),
        prompts=prompts,
        prompts_hash=hash_prompts(questions),
        seed=1,
        explorer=1,
        rewards={"answer": "math"},
        has_logprobs=True,
        versions={},
    )
    (folder / FOLDER).mkdir(parents=True)
    write_prompts(folder, questions)
    for first in range(0, prompts, CHUNK):
        ids = np.arange(first, min(first + CHUNK, prompts))
        rows = len(ids) * samples
        shard = Shard(
            prompt_id_R=np.repeat(ids, samples),
            sample_R=np.tile(np.arange(samples), len(ids)),
            length_R=np.full(rows, tokens),
            tokens_N=rng.integers(0, STOP, rows * tokens, dtype=np.int32),
            logprobs_N=-rng.exponential(0.5, rows * tokens).astype(np.float32),
            stopped_R=np.zeros(rows, np.bool_),
            reward_R=rng.integers(0, 2, rows).astype(np.float32),
            answer_R=["1"] * rows,
            grader_error_R=[None] * rows,
            seed_R=np.arange(rows),
        )
        write_shard(folder / FOLDER / f"chunk-{first:08}.parquet", shard, facts, "embedded")
    write_facts(folder, facts)


def resident(name: str) -> float:
    """VmRSS or VmHWM of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name)) / 1e6


def measure_here(folder: Path, prompts: int, samples: int) -> dict[str, Any]:
    """What one process sees: opening, then steps of draws from the store and through the engine."""
    rng = np.random.default_rng()
    before, start = resident("VmRSS"), time.perf_counter()
    store = Store.open(folder)
    figures: dict[str, Any] = {"open_s": time.perf_counter() - start, "imports_mb": before}
    figures |= {"opened_mb": resident("VmRSS"), "peak_mb": resident("VmHWM")}
    ids = np.array(list(store.counts))
    engines = {
        order: StoreEngine(store, samples=samples, order=order, seed=1, needs_logprobs=True) for order in DrawOrder
    }
    wall: dict[str, list[float]] = {"store": [], **{f"engine, {order.value}": [] for order in DrawOrder}}
    cpu: dict[str, list[float]] = {name: [] for name in wall}

    @contextlib.contextmanager
    def clock(name: str) -> Iterator[None]:
        start, start_cpu = time.perf_counter(), time.process_time()
        yield
        wall[name].append(time.perf_counter() - start)
        cpu[name].append(time.process_time() - start_cpu)

    for _ in range(STEPS):
        chosen = rng.choice(ids, prompts, replace=False).tolist()
        requests = [SampleRequest(one, n, (1,), 0, draw=n) for one in chosen for n in range(samples)]
        prompt_ids, places = [one.prompt_id for one in requests], [one.draw for one in requests]
        with clock("store"):
            drawn = store.draw_all(prompt_ids, places, sample_ids=places, source=Source.EXPLORER)
        assert len(drawn) == len(requests)
        for order, engine in engines.items():
            del drawn
            with clock(f"engine, {order.value}"):
                drawn = engine.generate(requests, store.facts.sampling)
        del drawn
    figures |= {"draw_s": medians(wall), "draw_cpu_s": medians(cpu)}
    figures |= {"load": os.getloadavg()[0]}  # processes that want a core, over the last minute
    figures |= {"fastest_draw_s": {name: min(its) for name, its in wall.items()}}
    return figures | {"drawn_mb": resident("VmRSS"), "peak_drawn_mb": resident("VmHWM")}


def middle_of(processes: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of each figure over processes, the smallest of the fastest draws, and the largest of each peak."""
    first = processes[0]
    figures: dict[str, Any] = {}
    for key, value in first.items():
        function = min if key.startswith("fastest") else max if key.startswith("peak") else statistics.median
        if isinstance(value, dict):
            figures[key] = {name: function(one[key][name] for one in processes) for name in value}
        else:
            figures[key] = function(one[key] for one in processes)
    return figures


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(its) for name, its in seconds.items()}


def in_new_process(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    command = [
        sys.executable,
        __file__,
        "--here",
        str(folder),
        f"--samples={options.samples}",
        f"--prompts={options.prompts}",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    start = time.perf_counter()
    write_store(folder, options.rollouts // options.samples, options.samples, options.tokens)
    written = time.perf_counter() - start
    first = in_new_process(folder, options)
    later = [in_new_process(folder, options) for _ in range(options.repeats)]
    sizes = {
        name: sum(path.stat().st_size for path in (folder / name).rglob("*") if path.is_file()) / 1e9
        for name in ("rollouts", "index")
    }
    return {
        "write_s": written,
        "shards": len(list((folder / FOLDER).iterdir())),
        "gb": sizes,
        "first_opening": {key: first[key] for key in ("open_s", "imports_mb", "opened_mb", "peak_mb")},
        "later_opening": middle_of(later),
    }


def print_figures(figures: dict[str, Any]) -> None:
    first, later = figures["first_opening"], figures["later_opening"]
    table = Table("what", "figure")
    table.add_row(
        "shards, index",
        f"{figures['gb']['rollouts']:.2f} GB in {figures['shards']:,} files, {figures['gb']['index']:.2f} GB",
    )
    table.add_row("first opening, makes the index", f"{first['open_s']:.2f} s, {first['peak_mb']:.0f} MB at most")
    table.add_row(
        "later opening", f"{later['open_s']:.3f} s, {later['opened_mb']:.0f} MB (imports {later['imports_mb']:.0f})"
    )
    for name, seconds in later["draw_s"].items():
        table.add_row(
            f"draw of a step, {name}",
            f"{1e3 * seconds:.1f} ms (CPU {1e3 * later['draw_cpu_s'][name]:.1f}, "
            f"fastest {1e3 * later['fastest_draw_s'][name]:.1f})",
        )
    table.add_row("memory after drawing", f"{later['drawn_mb']:.0f} MB, {later['peak_drawn_mb']:.0f} at most")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=1_000_000)
    parser.add_argument("--samples", type=int, default=16, help="of each prompt")
    parser.add_argument("--tokens", type=int, default=200, help="of each rollout")
    parser.add_argument("--prompts", type=int, default=1024, help="of a step")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where a temporary folder is made")
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure_here(options.here, options.prompts, options.samples)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        figures = measure(Path(folder) / "store", options)
    print_figures(figures)
    if options.output:
        settings = {key: value for key, value in vars(options).items() if key not in ("output", "folder", "here")}
        machine = {"machine": platform.processor() or platform.machine(), "pyarrow": metadata.version("pyarrow")}
        options.output.write_text(json.dumps({"settings": settings, **machine, "results": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
