"""Ends the sampler of a store by SIGKILL at random moments, and compares the store with an uninterrupted one.

    python benchmarks/store_kills.py [--kills 20] [--seed 0] [--model models/tiny/explorer] [--output FILE]

Each attempt runs the same command and is killed at a random moment: one in four while it starts, the others while it
samples. Then the command runs to its end. The two stores must have the same files with the same bytes, and the
same bytes again as one table in the order of (prompt_id, sample).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

ROOT = Path(__file__).resolve().parent.parent
STARTUP_S = 5.0  # about as long as the imports take
SAMPLING_S = 2.5  # longest time from the first sign of sampling to a kill


def command(options: argparse.Namespace, output: Path) -> list[str]:
    return [
        sys.executable, "recipes/sample_explorer.py", f"model={options.model}", f"output={output}", "samples=8",
        f"data.arithmetic.train_prompts={options.prompts}", "chunk=8",
    ]  # fmt: skip


def start(options: argparse.Namespace, output: Path) -> subprocess.Popen[str]:
    # bits of log-probs are promised for the same number of threads
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(options, output), cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run_to_end(options: argparse.Namespace, output: Path) -> str:
    with start(options, output) as process:
        text, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the sampler ended with {process.returncode}: {text}")
    return text


def kill_once(options: argparse.Namespace, output: Path, rng: random.Random, early: bool) -> dict[str, Any]:
    """Runs the sampler and kills it. `files` are those that it has added, `torn` those that it has left unfinished."""
    before = len(shards(output))
    with start(options, output) as process:
        began = time.perf_counter()
        if early:
            time.sleep(rng.uniform(0, STARTUP_S))
        else:
            while len(shards(output)) == before and process.poll() is None:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, SAMPLING_S))
        had_ended = process.poll() is not None
        process.kill()
        process.communicate()
    torn = len(list((output / "rollouts").glob(".tmp-*")))
    files = len(shards(output)) - before
    return {"seconds": time.perf_counter() - began, "files": files, "torn": torn, "had_ended": had_ended}


def shards(folder: Path) -> list[Path]:
    return sorted((folder / "rollouts").glob("*.parquet"))


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every published file, and of all rollouts as one sorted table."""
    found = {path.name: sha256(path.read_bytes()) for path in [*shards(folder), folder / "prompts.parquet"]}
    facts = json.loads((folder / "store.json").read_text())
    del facts["versions"]  # the working copy may change between two runs
    found["store.json"] = sha256(json.dumps(facts).encode())
    table = pa.concat_tables([parquet.ParquetFile(path).read() for path in shards(folder)])
    table = table.replace_schema_metadata(None).sort_by([("prompt_id", "ascending"), ("sample", "ascending")])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    found["all rollouts"] = sha256(sink.getvalue().to_pybytes())
    return found


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--model", default="models/tiny/explorer")
    parser.add_argument("--prompts", type=int, default=4000)
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        whole, killed = Path(name) / "whole", Path(name) / "killed"
        run_to_end(options, whole)
        kills = [kill_once(options, killed, rng, early=number % 4 == 3) for number in range(options.kills)]
        left = len(shards(whole)) - len(shards(killed))
        run_to_end(options, killed)
        differing = sorted(dict(contents(whole).items() ^ contents(killed).items()))
        files = len(shards(whole))
    figures = {
        "kills": len(kills),
        "while_sampling": sum(kill["files"] > 0 and not kill["had_ended"] for kill in kills),
        "after_the_end": sum(kill["had_ended"] for kill in kills),
        "left_unfinished_files": sum(kill["torn"] for kill in kills),
        "files": files,
        "files_left_for_the_last_run": left,
        "differing_files": differing,
        "moments": kills,
    }
    print(json.dumps({key: value for key, value in figures.items() if key != "moments"}, indent=2))
    if options.output:
        settings = {key: value for key, value in vars(options).items() if key != "output"}
        options.output.write_text(json.dumps({"settings": settings, "results": figures}, indent=2) + "\n")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
