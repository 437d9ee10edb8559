"""Measures log-probs and entropy of targets, with gradients: in chunks of the vocabulary against all logits at once.

    python benchmarks/logprobs.py [--targets 4096] [--hidden 1024] [--vocab 151936] [--rounds 5] [--output FILE]

Both sides get the same random hidden states and weights, in turns, each in a process of its own. Memory is what a
process holds at most beyond its inputs and their gradients.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
TEMPERATURE = 0.8
LogProbs = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]


def full(hidden_MH: torch.Tensor, weight_VH: torch.Tensor, target_M: torch.Tensor, temperature: float) -> torch.Tensor:
    """As `vocab_parallel.target_logprobs`, with all logits in memory."""
    logprobs_MV = ((hidden_MH @ weight_VH.t()).float() / temperature).log_softmax(-1)
    with torch.no_grad():
        entropy_M = -torch.linalg.vecdot(logprobs_MV.exp(), logprobs_MV)
    return torch.stack([logprobs_MV.gather(1, target_M[:, None])[:, 0], entropy_M])


def chunked() -> LogProbs:
    """The actor's own, on a single rank."""
    from s2l_nemo.trainer.start import preload

    preload()
    from s2l_nemo.actor.build import init_process_groups
    from s2l_nemo.actor.vocab_parallel import target_logprobs
    from s2l_nemo.config.schema import ModelConfig

    store = Path(tempfile.mkdtemp()) / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    init_process_groups(ModelConfig(), timeout_s=1800)
    return target_logprobs


def measure(side: str, targets: int, hidden: int, vocab: int) -> dict[str, float]:
    """One pass to warm up, and one that counts: seconds, GB beyond the inputs, and the sum of the log-probs."""
    compute: LogProbs = full if side == "full" else chunked()
    generator = torch.Generator().manual_seed(1)
    hidden_MH = torch.randn(targets, hidden, generator=generator).requires_grad_()
    weight_VH = (torch.randn(vocab, hidden, generator=generator) / hidden**0.5).requires_grad_()
    target_M = torch.randint(0, vocab, (targets,), generator=generator)
    for tensor in (hidden_MH, weight_VH):
        tensor.grad = torch.zeros_like(tensor)
    weight_grad_gb = weight_VH.numel() * 4 / 1e9  # autograd's own, before it is added to the one that is there
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        started = time.perf_counter()
        figures_2M = compute(hidden_MH, weight_VH, target_M, TEMPERATURE)
        figures_2M[0].mean().backward()
        seconds = time.perf_counter() - started
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    extra = (peak_kb - before_kb) * 1024 / 1e9 - weight_grad_gb
    return {"seconds": seconds, "extra_gb": extra, "sum": figures_2M[0].sum().item()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, default=4096)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="write JSON here")
    parser.add_argument("--side", choices=("full", "chunked"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = [options.targets, options.hidden, options.vocab]
    if options.side:
        print(json.dumps(measure(options.side, *sizes)))
        return
    found: dict[str, list[dict[str, float]]] = {"full": [], "chunked": []}
    for _ in range(options.rounds):
        for side, rounds in found.items():
            names = ("--targets", "--hidden", "--vocab")
            numbers = [word for name, size in zip(names, sizes, strict=True) for word in (name, str(size))]
            command = [sys.executable, str(Path(__file__)), *numbers, "--side", side]
            output = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True)
            rounds.append(json.loads(output.stdout.splitlines()[-1]))
    medians = {
        side: {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
        for side, rounds in found.items()
    }
    table = Table(title=f"{options.targets:,} targets, hidden {options.hidden:,}, vocabulary {options.vocab:,}, fp32")
    for column in ("", "seconds", "extra GB", "sum of log-probs"):
        table.add_column(column, justify="right")
    for side, one in medians.items():
        table.add_row(side, f"{one['seconds']:.2f}", f"{one['extra_gb']:.2f}", f"{one['sum']:.3f}")
    Console().print(table)
    ratio = medians["chunked"]["seconds"] / medians["full"]["seconds"]
    Console().print(f"chunked / full: {ratio:.2f} of the time")
    if options.output:
        facts: dict[str, object] = {
            "targets": options.targets,
            "hidden": options.hidden,
            "vocab": options.vocab,
            "medians": medians,
        }
        options.output.write_text(
            json.dumps(facts | {"time_ratio": ratio, "threads": torch.get_num_threads()}, indent=2)
        )


if __name__ == "__main__":
    main()
