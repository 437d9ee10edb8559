"""Measures decoding of the embedded engine against the time in which the machine reads the weights once.

    python benchmarks/decode.py [--rows 8] [--dtypes float32 bfloat16] [--output FILE]

A token of a few rows costs at least one read of all weights. The model has random weights and, by default, the shape of
SmolLM2-135M. The read is a sum over as many bytes as integers of 64 bits, with the same number of threads: once in
memory as torch takes it, once in the huge pages that numpy asks for, which is faster. All run in turns. Decoding is the
time of `generate` for all tokens less that for the first one, which holds the prompts.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from s2l_nemo.engines.embedded.engine import EmbeddedEngine
from s2l_nemo.types import SampleRequest, SamplingParams, Source


def build_model(args: argparse.Namespace, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=args.vocab,
        hidden_size=args.hidden,
        intermediate_size=args.intermediate,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.kv_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).to(dtype).eval()


def read_seconds(words: torch.Tensor) -> float:
    start = time.perf_counter()
    words.sum()
    return time.perf_counter() - start


def generate_seconds(engine: EmbeddedEngine, rows: int, prompt: int, tokens: int) -> float:
    requests = [SampleRequest(row, 0, tuple(range(3, 3 + prompt)), seed=row) for row in range(rows)]
    start = time.perf_counter()
    engine.generate(requests, SamplingParams(tokens, stop_token_ids=()))
    return time.perf_counter() - start


def measure(args: argparse.Namespace, dtype: str, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    model = build_model(args, getattr(torch, dtype))
    engine = EmbeddedEngine(model, source=Source.LEARNER, max_batch_rows=args.rows)
    whole = [parameter.detach() for parameter in model.parameters()]
    size = sum(weight.numel() * weight.element_size() for weight in whole)
    words = torch.empty(size // 8, dtype=torch.int64).random_()
    huge = torch.from_numpy(np.empty(size // 8, np.int64)).copy_(words)
    times: dict[str, list[float]] = {"read": [], "read_huge_pages": [], "step": []}
    for repeat in range(args.repeats + 1):
        reads = read_seconds(words), read_seconds(huge)
        first = generate_seconds(engine, args.rows, args.prompt, 1)
        decoded = generate_seconds(engine, args.rows, args.prompt, args.tokens) - first
        if repeat:  # the first one is the warm-up
            for its, seconds in zip(times.values(), (*reads, decoded / (args.tokens - 1)), strict=True):
                its.append(seconds)

    def share(read: str) -> float:
        return statistics.median(read / step for read, step in zip(times[read], times["step"], strict=True))

    return {
        "dtype": dtype,
        "threads": threads,
        "weight_bytes": size,
        **{f"{name}_seconds": statistics.median(its) for name, its in times.items()},
        "share_of_roofline": share("read"),
        "share_of_roofline_huge_pages": share("read_huge_pages"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=33)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--vocab", type=int, default=49152)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--intermediate", type=int, default=1536)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--heads", type=int, default=9)
    parser.add_argument("--kv-heads", type=int, default=3)
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    results = [measure(args, dtype, threads) for dtype in args.dtypes for threads in args.threads]
    table = Table("dtype", "threads", "read, ms", "in huge pages", "step, ms", "share", "of huge pages", "tokens/s")
    for r in results:
        reads = [f"{r[f'{name}_seconds'] * 1e3:.1f}" for name in ("read", "read_huge_pages", "step")]
        shares = [f"{r[f'share_of_roofline{kind}']:.0%}" for kind in ("", "_huge_pages")]
        table.add_row(r["dtype"], str(r["threads"]), *reads, *shares, f"{args.rows / r['step_seconds']:,.0f}")
    Console(width=100).print(table)
    if args.output:
        machine = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
        settings = {key: value for key, value in vars(args).items() if key != "output"}
        args.output.write_text(json.dumps({"settings": settings, **machine, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
