"""Measures how a step's completions come to the ranks that train on them: as arrays to their replica, and, as it was
before, as pickled Python numbers to every rank.

    python benchmarks/exchange.py [--completions 16384] [--tokens 2048] [--ranks 8] [--replicas 8] [--output FILE]

Ranks are processes of this machine that speak over gloo. Every rank has sampled as many completions of random tokens.
The clock runs from a barrier to the end of the slowest rank, so it includes the figures of `StepGroups`. Memory is what
a rank holds at most beyond its state before, and beyond the arrays that it gets. Both sides run in turns. The pickled
side gets a part of the completions, because all of them need 2.4 GB on each rank; its figures grow with their number.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from s2l_nemo.algorithm.groups import assemble_groups
from s2l_nemo.algorithm.sharing import balanced_replicas
from s2l_nemo.trainer.exchange import StepGroups, deliver
from s2l_nemo.trainer.ranks import Ranks
from s2l_nemo.types import Completion, Prompt, Source

GROUP = 16


@dataclass(frozen=True)
class Figures:
    """Of one run on one rank."""

    seconds: float
    peak_bytes: int  # beyond the memory before
    array_bytes: int  # of the completions that the rank gets from others


def resident(name: str) -> int:
    """VmRSS or VmHWM of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def measured(job: Callable[[], list[Completion]], own: Sequence[Completion] = ()) -> Figures:
    """What the job costs until all ranks have done theirs. It returns completions, of which the rank has `own`."""
    torch.distributed.barrier()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before, start = resident("VmRSS"), time.perf_counter()
    completions = job()
    torch.distributed.barrier()
    seconds = time.perf_counter() - start
    known = {id(completion) for completion in own}
    size = sum(len(completion.token_ids) * 8 for completion in completions if id(completion) not in known)
    return Figures(seconds, resident("VmHWM") - before, size)


def sampled(ranks: Ranks, prompts: list[Prompt], tokens: int, seed: int) -> list[Completion]:
    """What this rank has sampled: whole groups of random length, `tokens` at most."""
    rng = np.random.default_rng([seed, ranks.rank])
    return [
        Completion(
            prompt.prompt_id,
            sample,
            Source.LEARNER,
            rng.integers(0, 151_936, tokens, dtype=np.int32),
            rng.standard_normal(tokens, dtype=np.float32),
            "length",
            0,
        )
        for prompt in prompts[ranks.rank :: ranks.world]
        for sample in range(GROUP)
    ]


def as_arrays(ranks: Ranks, prompts: list[Prompt], mine: list[Completion], replicas: int) -> list[Completion]:
    own_prompts, completions = deliver(
        ranks, mine, prompts, lambda tokens_P: balanced_replicas(tokens_P, replicas, len(prompts))
    )
    graded = [replace(completion, reward=1.0) for completion in completions]
    planned = {prompt.prompt_id: (Source.LEARNER.value,) * GROUP for prompt in prompts}
    StepGroups.gather(ranks, prompts, assemble_groups(own_prompts, graded, sources=planned, learner_version=0))
    return completions


def as_numbers(ranks: Ranks, mine: list[Any]) -> list[Completion]:
    """Every rank gets all completions, whose tokens and log-probs are tuples of Python numbers."""
    parts = ranks.gather(mine)
    return [Completion(*fields) for part in parts for fields in part]


def run_rank(rank: int, options: argparse.Namespace, store: str, results: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=options.ranks)
    replica_of = tuple(rank * options.replicas // options.ranks for rank in range(options.ranks))
    ranks = Ranks(rank, tuple(range(options.ranks)), replica_of)
    for repeat in range(options.repeats + 1):
        prompts = [Prompt(n, "", "", (1,)) for n in range(options.completions // GROUP)]
        mine = sampled(ranks, prompts, options.tokens, repeat)
        arrays = measured(partial(as_arrays, ranks, prompts, mine, options.replicas), mine)
        mine = mine[: len(mine) // options.part]
        numbers = [
            (c.prompt_id, c.sample_id, c.source, tuple(c.token_ids.tolist()), tuple(c.logprobs.tolist()), "length", 0)
            for c in mine
        ]
        del mine
        pickled = measured(partial(as_numbers, ranks, numbers))
        if repeat:  # the first one is the warm-up
            results.put((repeat, "arrays", arrays))
            results.put((repeat, "pickled", pickled))
    torch.distributed.destroy_process_group()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        arguments = [(rank, options, str(Path(folder) / "store"), results) for rank in range(options.ranks)]
        processes = [context.Process(target=run_rank, args=one) for one in arguments]
        for process in processes:
            process.start()
        rows = [results.get() for _ in range(2 * options.repeats * options.ranks)]
        for process in processes:
            process.join()
    figures: dict[str, Any] = {}
    for side in ("arrays", "pickled"):
        seconds = [
            max(found.seconds for repeat, its, found in rows if (repeat, its) == (number, side))
            for number in range(1, options.repeats + 1)
        ]
        own = [found for _, its, found in rows if its == side]
        figures[side] = {
            "seconds": statistics.median(seconds),
            "array_bytes": max(found.array_bytes for found in own),
            "bytes_beyond": max(found.peak_bytes - found.array_bytes for found in own),
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--completions", type=int, default=16384)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--replicas", type=int, default=8, help="data-parallel size")
    parser.add_argument("--part", type=int, default=16, help="the pickled side gets one in so many completions")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    figures = measure(options)
    console = Console()
    table = Table("side", "completions", "seconds", "GB beyond the arrays")
    for side, found in figures.items():
        count = options.completions // (options.part if side == "pickled" else 1)
        table.add_row(side, f"{count:,}", f"{found['seconds']:.2f}", f"{found['bytes_beyond'] / 1e9:.3f}")
    console.print(table)
    if options.output:
        settings = {key: value for key, value in vars(options).items() if key != "output"}
        machine = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
        options.output.write_text(json.dumps({"settings": settings, **machine, "results": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
