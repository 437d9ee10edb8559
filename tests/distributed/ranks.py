"""Runs a function on gloo ranks that are forked from one server process, which has imported NeMo once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.distributed.preload"])


HANGS_S = 900.0  # long enough for a machine that does other work; only a hang takes longer


class RanksFailed(Exception):
    """Exit code and what the run printed on stderr."""


def run_ranks(function: Callable[..., Any], world: int, *args: Any, timeout: float = HANGS_S) -> list[Any]:
    """`function(*args)` on every rank; returns the results in rank order. Raises RanksFailed for any exit but 0."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # short: below it are sockets, whose names are bounded
        process = CONTEXT.Process(target=_parent, args=(function, world, args, folder))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            raise RanksFailed(f"still running after {timeout} s")
        code = process.exitcode
        if code:
            raise RanksFailed(f"exit code {code}: {Path(folder, 'stderr').read_text()[-4000:]}")
        return [torch.load(Path(folder, f"rank{rank}.pt"), weights_only=False) for rank in range(world)]


def _parent(function: Callable[..., Any], world: int, args: tuple[Any, ...], folder: str) -> None:
    import tests.distributed.preload  # noqa: F401  a failed preload of the fork server is silent
    from s2l_nemo.platform.launch import fork_ranks

    # Ranks end without cleaning up what they unpacked, and so does a server that is killed with its supervisor.
    os.environ["TMPDIR"] = tempfile.tempdir = folder

    def rank_main() -> None:
        result = function(*args)
        torch.save(result, Path(folder, f"rank{torch.distributed.get_rank()}.pt"))

    with Path(folder, "stderr").open("w") as stderr, contextlib.redirect_stderr(stderr):
        code = fork_ranks(rank_main, world)
    raise SystemExit(code)
