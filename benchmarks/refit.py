"""Rate of a weight update into an engine server in another process, against memcpy of the same bytes, in turns.

The trainer's side holds random bfloat16 weights with the shapes of a public model and yields them in the buckets that
an actor exports; `ServedLearnerEngine.update_weights` carries them over shared memory into an embedded engine in a
server process. A rate is all bytes over the wall seconds of the whole call, from its begin to the engine's last
answer. Memcpy is numpy's copy of the same weights into a second, preallocated buffer, on one core. Both have run once
before anything is timed, so that no page is touched for the first time. In the end the server's weight hash is
compared with that of the weights here, and one more update is run while this process's memory is sampled every 2 ms.

    python benchmarks/refit.py --output refit.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from s2l_nemo.engines.build import EngineFactory, Servers
from s2l_nemo.engines.options import EngineConfig
from s2l_nemo.engines.protocol import Bucket, LearnerEngine
from s2l_nemo.models.formats.dtypes import BFLOAT16
from s2l_nemo.models.fusion import hf_shapes
from s2l_nemo.models.hf_config import config_of_shape
from s2l_nemo.models.layout import Entry, buckets, entries
from s2l_nemo.models.open import open_model
from s2l_nemo.models.precision import Precision
from s2l_nemo.models.shape import ModelShape, public_shapes


def named_shapes(plan: list[Entry], shape: ModelShape) -> dict[str, tuple[int, ...]]:
    return {
        name: sizes
        for entry in plan
        for name, sizes in zip(entry.hf_names(), hf_shapes(entry.rule, shape), strict=True)
    }


def write_zeros(folder: Path, shape: ModelShape) -> None:
    """A Hugging Face folder of the shape, its weights a hole in the file: what the server starts from."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, sizes in named_shapes(entries(shape), shape).items():
        start, end = end, end + 2 * math.prod(sizes)
        header[name] = {"dtype": "BF16", "shape": sizes, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    (folder / "config.json").write_text(json.dumps(config_of_shape(shape, BFLOAT16)))


def random_weights(shape: ModelShape) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """All weights as one flat tensor of random bits, and by name."""
    shapes = named_shapes(entries(shape), shape)
    count = sum(math.prod(sizes) for sizes in shapes.values())
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(generator=torch.Generator().manual_seed(0))
    flat = bits.view(torch.bfloat16)[:count]
    weights, start = {}, 0
    for name, sizes in shapes.items():
        weights[name] = flat[start : start + math.prod(sizes)].view(sizes)
        start += math.prod(sizes)
    return flat, weights


def exported(weights: dict[str, torch.Tensor], shape: ModelShape, bucket_bytes: int) -> Iterator[Bucket]:
    """The weights in the buckets of an actor's export."""
    for bucket in buckets(entries(shape), shape, 2, bucket_bytes):
        yield {name: weights[name] for name in named_shapes(bucket, shape)}


def weight_hash(weights: dict[str, torch.Tensor]) -> str:
    """As `RolloutEngine.weight_hash` defines it."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def seconds_of(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def memory_of(function: Callable[[], object]) -> dict[str, int]:
    """How much more anonymous and shared memory this process has at most while `function` runs than before, bytes."""

    def sample() -> dict[str, int]:
        lines = Path("/proc/self/status").read_text().splitlines()
        found = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines if line.startswith("Rss")}
        return {name: found[name] for name in ("RssAnon", "RssShmem")}

    before = sample()
    largest = dict(before)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            for name, value in sample().items():
                largest[name] = max(largest[name], value)

    watcher = threading.Thread(target=watch)
    watcher.start()
    function()
    done.set()
    watcher.join()
    return {"anonymous": largest["RssAnon"] - before["RssAnon"], "shared": largest["RssShmem"]}


def measure(engine: LearnerEngine, shape: ModelShape, options: argparse.Namespace) -> dict[str, object]:
    flat, weights = random_weights(shape)
    target = torch.empty_like(flat)
    source_bytes, target_bytes = (tensor.view(torch.uint8).numpy() for tensor in (flat, target))
    versions = iter(range(1, 1000))

    def copy() -> None:
        target_bytes[:] = source_bytes

    def refit() -> None:
        engine.update_weights(exported(weights, shape, options.bucket_mb * 2**20), next(versions))

    first = {"memcpy": seconds_of(copy), "refit": seconds_of(refit)}
    times: dict[str, list[float]] = {"memcpy": [], "refit": []}
    for _ in range(options.repeats):
        times["memcpy"].append(seconds_of(copy))
        times["refit"].append(seconds_of(refit))
    if engine.weight_hash() != weight_hash(weights):
        raise SystemExit("the server's weights are not those that were sent")
    size = flat.numel() * flat.element_size()
    rates = {side: size / 1e9 / statistics.median(values) for side, values in times.items()}
    return {
        "bytes": size,
        "gb_per_s": rates,
        "ratio": statistics.median(m / r for m, r in zip(times["memcpy"], times["refit"], strict=True)),
        "seconds": times,
        "first_seconds": first,
        "memory_above_weights_bytes": memory_of(refit),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=public_shapes(), default="Qwen3-1.7B")
    parser.add_argument("--bucket-mb", type=int, default=256, help="as rollout.refit_bucket_mb")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the server, too: one core each
    shape = public_shapes()[options.model]
    with tempfile.TemporaryDirectory() as temporary:
        write_zeros(Path(temporary), shape)
        factory = EngineFactory(
            EngineConfig(kind="server"),
            Precision.bf16,
            torch.device("cpu"),
            max_batch_rows=8,
            max_sequence_length=64,
            servers=Servers(0, Path(temporary)),
        )
        with closing(factory.learner(open_model("model.path", str(temporary)))) as engine:
            figures = measure(engine, shape, options)
    report(figures, options)


def report(figures: dict[str, object], options: argparse.Namespace) -> None:
    machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    settings = {"model": options.model, "bucket_mb": options.bucket_mb}
    result = {**settings, **machine, **figures}
    console = Console()
    table = Table("figure", "value")
    for name, value in result.items():
        table.add_row(name, json.dumps(value))
    console.print(table)
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
