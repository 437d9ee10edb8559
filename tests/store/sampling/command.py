"""`recipes/sample_explorer.py` as a user runs it, with a tiny random model whose answers differ in length."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from unittest import mock

import pyarrow as pa
import torch
from pyarrow import parquet

from tests.commands import Done, run_here
from tests.distributed.models import write_qwen3

PRELOADED = [
    "s2l_nemo.store.sampling.run", "s2l_nemo.engines.embedded.engine", "transformers.models.qwen3.modeling_qwen3",
    "pyarrow.parquet",
]  # fmt: skip
SMALL = ["rollout.max_prompt_length=80", "rollout.max_response_length=12", "data.arithmetic.digits=1"]


def write_model(folder: Path, seed: int = 0) -> Path:
    return write_qwen3(folder, seed=seed, layers=2, sliding_window=None)


def arguments(model: Path, output: Path, *more: str) -> list[str]:
    return ["recipes/sample_explorer.py", f"model={model}", f"output={output}", *SMALL, *more]


def sample_here(model: Path, output: Path, *more: str) -> Done:
    return run_here(*arguments(model, output, *more))


@dataclass(frozen=True)
class Job:
    """A sampler in a process of its own."""

    process: ForkServerProcess
    log: Path

    @property
    def is_running(self) -> bool:
        return self.process.is_alive()

    def kill(self) -> None:
        """SIGKILL, and waits for the end."""
        self.process.kill()
        self.process.join()

    def text_at_end(self) -> str:
        """What it has written, once it has succeeded."""
        self.process.join()
        text = self.log.read_text()
        assert self.process.exitcode == 0, text
        return text


def start(model: Path, output: Path, *more: str) -> Job:
    """Starts the recipe. A process that has imported its libraries is forked, and has one thread for torch."""
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    descriptor, log = tempfile.mkstemp(dir=model.parent)
    os.close(descriptor)
    with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}):
        process = context.Process(target=_run, args=(arguments(model, output, *more)[1:], log))
        process.start()
    return Job(process, Path(log))


def _run(argv: list[str], log: str) -> None:
    from recipes import sample_explorer

    torch.set_num_threads(1)  # bits of log-probs are promised for the same number of threads
    with open(log, "w", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        code = sample_explorer.main(argv)
    raise SystemExit(code)


def shards(folder: Path) -> list[Path]:
    return sorted((folder / "rollouts").glob("*.parquet"))


def contents(folder: Path) -> dict[str, object]:
    """Every published file. The commit of a working copy may change between two runs."""
    facts = json.loads((folder / "store.json").read_text())
    del facts["versions"]
    files = [*shards(folder), folder / "prompts.parquet"]
    return {"store.json": facts, **{path.name: path.read_bytes() for path in files}}


def table(folder: Path) -> pa.Table:
    """All rollouts by (prompt_id, sample)."""
    tables = [parquet.ParquetFile(path).read().replace_schema_metadata(None) for path in shards(folder)]
    return pa.concat_tables(tables).sort_by([("prompt_id", "ascending"), ("sample", "ascending")])
