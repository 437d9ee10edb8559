"""Measures useful tokens per second of the embedded engine, and compares them with transformers' `generate`.

The model is a random Qwen3 of the size of the tiny preset. Its next-token distribution is nearly uniform over 320
tokens, and `round(320 / mean_length)` of them are stop tokens. So response lengths are geometric with about that mean,
cut at `max_new_tokens`. Prompt lengths are uniform from 8 to 48. Useful tokens are those up to the stop token, which
counts. `generate` decodes until the last row of its batch has stopped, and what it emits after a stop does not count.
Both sides run in this process, in turns, with the same number of threads. Both sample all 16 x 16 requests at
temperature 1 in one call.

    python benchmarks/rollout.py --output rollout.json
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from transformers import Qwen3Config, Qwen3ForCausalLM

from s2l_nemo.algorithm.groups import sample_seed
from s2l_nemo.engines.embedded.engine import EmbeddedEngine
from s2l_nemo.types import SampleRequest, SamplingParams, Source

VOCAB = 320
PAD = 0


@dataclass(frozen=True)
class Measurement:
    """Useful tokens per second, as medians over the repeats."""

    mean_length: int
    threads: int
    embedded: float
    generate: float
    ratio: float  # median of the ratios of neighbouring repeats
    embedded_response: float  # mean length of the sampled responses
    generate_response: float


def build_model(layers: int) -> Any:
    """A random Qwen3 in float32 with the shape of the tiny learner."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=48,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config).eval()


def build_requests(prompts: int, group: int, step: int) -> list[SampleRequest]:
    """`group` requests for each of `prompts` random prompts of 8 to 48 tokens. Every `step` has other seeds."""
    rng = random.Random(0)
    texts = [tuple(rng.randrange(64, VOCAB) for _ in range(rng.randint(8, 48))) for _ in range(prompts)]
    return [
        SampleRequest(prompt, sample, tokens, sample_seed(0, step, prompt, sample))
        for prompt, tokens in enumerate(texts)
        for sample in range(group)
    ]


def embedded_tokens(engine: EmbeddedEngine, requests: list[SampleRequest], params: SamplingParams) -> int:
    return sum(len(completion.token_ids) for completion in engine.generate(requests, params))


@torch.inference_mode()
def generate_tokens(model: Any, requests: list[SampleRequest], params: SamplingParams) -> int:
    longest = max(len(request.prompt_token_ids) for request in requests)
    padding = [longest - len(request.prompt_token_ids) for request in requests]
    inputs = [[PAD] * pad + list(r.prompt_token_ids) for pad, r in zip(padding, requests, strict=True)]
    output_BT = model.generate(
        torch.tensor(inputs),
        attention_mask=torch.tensor([[0] * pad + [1] * (longest - pad) for pad in padding]),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=params.max_new_tokens,
        eos_token_id=list(params.stop_token_ids) or None,
        pad_token_id=PAD,
    )[:, longest:]
    stops_BT = torch.isin(output_BT, torch.tensor(params.stop_token_ids, dtype=torch.long)).int()
    stopped_before_BT = stops_BT.cumsum(dim=1) - stops_BT
    return int((stopped_before_BT == 0).sum())


def timed(
    run: Callable[[Any, list[SampleRequest], SamplingParams], int],
    sampler: Any,
    requests: list[SampleRequest],
    params: SamplingParams,
) -> tuple[int, float]:
    """Useful tokens and seconds of one run."""
    start = time.perf_counter()
    tokens = run(sampler, requests, params)
    return tokens, time.perf_counter() - start


def measure(args: argparse.Namespace, mean_length: int, threads: int) -> Measurement:
    """Measures one mean length. 0 stands for no stop tokens, so that every response has full length."""
    torch.set_num_threads(threads)
    model = build_model(args.layers)
    # The engine changes the attention of its model, so it has a model of its own.
    engine = EmbeddedEngine(build_model(args.layers), source=Source.LEARNER, max_batch_rows=args.max_batch_rows)
    stops = tuple(range(1, 1 + round(VOCAB / mean_length))) if mean_length else ()
    params = SamplingParams(max_new_tokens=args.max_new_tokens, stop_token_ids=stops)
    embedded, generated, responses = [], [], []
    for repeat in range(args.repeats + 1):
        requests = build_requests(args.prompts, args.group, repeat)
        torch.manual_seed(repeat)
        ours, our_seconds = timed(embedded_tokens, engine, requests, params)
        theirs, their_seconds = timed(generate_tokens, model, requests, params)
        if repeat > 0:  # the first one is the warm-up
            embedded.append(ours / our_seconds)
            generated.append(theirs / their_seconds)
            responses.append((ours / len(requests), theirs / len(requests)))
    return Measurement(
        mean_length=mean_length,
        threads=threads,
        embedded=statistics.median(embedded),
        generate=statistics.median(generated),
        ratio=statistics.median(ours / theirs for ours, theirs in zip(embedded, generated, strict=True)),
        embedded_response=statistics.mean(ours for ours, _ in responses),
        generate_response=statistics.mean(theirs for _, theirs in responses),
    )


def report(measurements: list[Measurement], args: argparse.Namespace) -> Table:
    table = Table(
        title=f"Useful tokens/s, {args.prompts} prompts x G {args.group}, {args.layers} layers, medians of"
        f" {args.repeats} interleaved repeats"
    )
    for column in ("responses", "threads", "mean tokens", "embedded", "generate", "ratio"):
        table.add_column(column, justify="right")
    for m in measurements:
        table.add_row(
            f"geometric, mean {m.mean_length}" if m.mean_length else f"all {args.max_new_tokens}",
            str(m.threads),
            f"{m.embedded_response:.1f} / {m.generate_response:.1f}",
            f"{m.embedded:,.0f}",
            f"{m.generate:,.0f}",
            f"{m.ratio:.2f}",
        )
    return table


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--group", type=int, default=16)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--max-batch-rows", type=int, default=256)
    parser.add_argument("--mean-lengths", type=int, nargs="+", default=[32, 0], help="0: all of full length")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    transformers.logging.set_verbosity_error()
    measurements = [measure(args, length, threads) for length in args.mean_lengths for threads in args.threads]
    Console().print(report(measurements, args))
    if args.output:
        machine = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
        settings = {key: value for key, value in vars(args).items() if key != "output"}
        results = [asdict(measurement) for measurement in measurements]
        content = {"settings": settings, **machine, "transformers": transformers.__version__, "results": results}
        args.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
