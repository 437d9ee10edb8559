"""Rate and memory of conversion each way, against `cp` of the same bytes on the same disk, in turns.

A Qwen3-1.7B-shaped checkpoint of random bfloat16 weights is generated; then each repeat runs, one after the other,
`cp` of it, `cp` followed by flushing the copy to the disk (what a conversion does before it reports success),
Hugging Face -> NeMo folder and NeMo folder -> Hugging Face, each as a command of its own. Rates are bytes of weights
over wall seconds of the whole command, its start-up included; memory is the largest RssAnon of the process, sampled
every 10 ms. All sources are in the page cache for all sides.

    python benchmarks/convert.py --folder /path/on/the/disk --output convert.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy
from rich.console import Console
from rich.table import Table

from s2l_nemo.models.formats.dtypes import BFLOAT16
from s2l_nemo.models.formats.output import new_output
from s2l_nemo.models.formats.rows import MemoryRows, Rows
from s2l_nemo.models.formats.safetensors_writer import SafetensorsPlan, TensorPlan
from s2l_nemo.models.fusion import hf_shapes
from s2l_nemo.models.hf_config import config_of_shape
from s2l_nemo.models.layout import entries
from s2l_nemo.models.shape import public_shapes

ROOT = Path(__file__).resolve().parent.parent
COPY, COPY_FLUSHED, TO_NEMO, TO_HF = "cp", "cp, flushed", "Hugging Face to NeMo", "NeMo to Hugging Face"


def generate(folder: Path, model: str) -> int:
    """Writes a random checkpoint with the shapes of a public model and returns the bytes of its weights."""
    shape = public_shapes()[model]
    tensors = [
        TensorPlan(name, sizes)
        for entry in entries(shape)
        for name, sizes in zip(entry.hf_names(), hf_shapes(entry.rule, shape), strict=True)
    ]
    weights = SafetensorsPlan(tensors, BFLOAT16, 5 * 10**9)
    config = (json.dumps(config_of_shape(shape, BFLOAT16)) + "\n").encode()
    random = numpy.random.default_rng(0)

    def data() -> Iterator[tuple[str, Rows]]:
        for tensor in tensors:
            rows, width = tensor.shape[0], 2 * (tensor.shape[1] if len(tensor.shape) > 1 else 1)
            yield tensor.name, (MemoryRows(random.integers(0, 256, rows * width, numpy.uint8).data, width),)

    with new_output(folder, {"config.json": len(config), **weights.files}, tar=False, force=False) as output:
        with output.file("config.json") as write:
            write(config)
        weights.write(output, data())
    return weights.total_size


def run(command: list[str]) -> tuple[float, int]:
    """Wall seconds of a command and the largest anonymous memory it had, in bytes."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    largest = 0
    while process.poll() is None:
        largest = max(largest, anonymous(process.pid))
        time.sleep(0.01)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{command} failed with {process.returncode}")
    return seconds, largest


def anonymous(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def measure(folder: Path, repeats: int) -> dict[str, list[tuple[float, int]]]:
    """All four sides in turns; every output is removed, and the disk idle, before the next begins."""
    source, nemo, out = folder / "hf", folder / "nemo", folder / "out"
    python, tools = sys.executable, ROOT / "tools"
    run([python, str(tools / "convert_hf_to_nemo.py"), "--input", str(source), "--output", str(nemo)])
    sides: dict[str, list[str]] = {
        COPY: ["cp", "-r", str(source), str(out)],
        COPY_FLUSHED: ["sh", "-c", f'cp -r "{source}" "{out}" && sync "{out}"/*'],
        TO_NEMO: [python, str(tools / "convert_hf_to_nemo.py"), "--input", str(source), "--output", str(out)],
        TO_HF: [python, str(tools / "convert_nemo_to_hf.py"), "--input", str(nemo), "--output", str(out)],
    }
    results: dict[str, list[tuple[float, int]]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, command in sides.items():
            results[side].append(run(command))
            shutil.rmtree(out)
            os.sync()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, help="where to work, on the disk to measure; default: a temporary folder"
    )
    parser.add_argument("--model", choices=public_shapes(), default="Qwen3-1.7B")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        size = generate(folder / "hf", options.model)
        results = measure(folder, options.repeats)
    seconds = {side: statistics.median(time for time, _ in runs) for side, runs in results.items()}
    table = Table("side", "seconds", "GB/s", f"of {COPY}", f"of {COPY_FLUSHED}", "anonymous memory")
    rows = {}
    for side, runs in results.items():
        rows[side] = {
            "seconds": seconds[side],
            "gb_per_s": size / 1e9 / seconds[side],
            "of_cp": seconds[COPY] / seconds[side],
            "of_cp_flushed": seconds[COPY_FLUSHED] / seconds[side],
            "anonymous_mib": max(memory for _, memory in runs) / 2**20,
            "all_seconds": [time for time, _ in runs],
        }
        figures = rows[side]
        table.add_row(side, f"{figures['seconds']:.2f}", f"{figures['gb_per_s']:.2f}", f"{figures['of_cp']:.2f}",
                      f"{figures['of_cp_flushed']:.2f}", f"{figures['anonymous_mib']:.0f} MiB")  # fmt: skip
    console = Console()
    console.print(f"{options.model}, {size / 1e9:.2f} GB, {options.repeats} repeats in turns, medians")
    console.print(table)
    if options.output:
        machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        text = json.dumps({"model": options.model, "bytes": size, **machine, "sides": rows}, indent=2)
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
