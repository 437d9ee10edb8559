"""Engines that are slow, hang or die while a rank without engines waits: real servers, gloo ranks, short timeouts."""

from __future__ import annotations

import datetime
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from s2l_nemo.engines.build import EngineFactory, Servers, make_engines
from s2l_nemo.engines.kinds import ENGINES, EngineKind
from s2l_nemo.engines.options import EngineConfig
from s2l_nemo.engines.protocol import Bucket
from s2l_nemo.engines.served.client import ServedEngine
from s2l_nemo.models.open import open_model
from s2l_nemo.models.precision import Precision
from s2l_nemo.trainer.clock import Clock
from s2l_nemo.trainer.ranks import Ranks
from s2l_nemo.trainer.rollouts import Ask, Rollouts
from s2l_nemo.types import SampleRequest, SamplingParams, Source
from tests.distributed.ranks import run_ranks
from tests.engines.scripted import write_model

TIMEOUT_S = 12.0  # of a collective
REQUEST_S = 20.0  # of an engine that takes a second for a completion; it is longer than a collective may take
PARAMS = SamplingParams(4, ())


def requests(count: int) -> list[SampleRequest]:
    return [SampleRequest(0, sample, (sample, 5), seed=sample) for sample in range(count)]


class Actor:
    """Its export is a collective, as that of a sharded model is."""

    def release_memory(self) -> None: ...

    def release_cache(self) -> None: ...

    def export_weights(self) -> Iterator[Bucket]:
        for name in ("a", "b"):
            weight = torch.ones(2)
            torch.distributed.all_reduce(weight)
            yield {name: weight}


def rollouts_of_rank(folder: Path) -> Rollouts:
    torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(seconds=TIMEOUT_S))
    rank = torch.distributed.get_rank()
    ENGINES.register("slow", EngineKind("tests.engines.scripted:SLOW", served=True))
    config = EngineConfig(kind="slow", request_s=REQUEST_S, update_s=600.0)
    servers = Servers(0, folder / "logs", rank) if rank == 0 else None
    model = open_model("model.path", str(folder / "model"))
    factory = EngineFactory(config, Precision.fp32, torch.device("cpu"), 4, 64, servers)
    ranks = Ranks(rank, leaders=(0,), replica_of=(0, 0), beat_s=0.5)
    (explorer,), learner = ranks.work(lambda: make_engines(factory, explorers=[model], learner=model))[0]
    nothing: Any = None
    actor: Any = Actor()
    return Rollouts({1: explorer}, learner, actor, ranks, nothing, concurrent=True, sleeps=True)


def signal_after(engine: ServedEngine, completions: int, signum: int) -> threading.Thread:
    """Sends a signal to the server once so many completions have come."""

    def send() -> None:
        while engine._work is None or len(engine._work.finished) < completions:
            time.sleep(0.01)
        os.killpg(engine._connection._process._process.pid, signum)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def sample_and_lose(folder: Path) -> tuple[list[list[int]], list[Any]]:
    """One rank samples twice. Returns the samples that it got, and the engines' restarts after each time.

    The first time nothing goes wrong. The second time the explorer is killed and the learner hangs.
    """
    rollouts = rollouts_of_rank(folder)
    rollouts.sleep()
    rollouts.refit(3)
    asks = [Ask(Source.EXPLORER, requests(14), PARAMS), Ask(Source.LEARNER, requests(5), PARAMS)]
    engines = {"explorer": rollouts.explorers[1], "learner": rollouts.learner}
    servers = {name: engine for name, engine in engines.items() if isinstance(engine, ServedEngine)}
    samples, restarts = [], []
    for losses in ({}, {"explorer": signal.SIGKILL, "learner": signal.SIGSTOP}):
        threads = [signal_after(servers[name], 2, signum) for name, signum in losses.items() if servers]
        completions = rollouts.sample(asks, Clock())
        samples.append([completion.sample_id for completion in completions])
        restarts.append([engine.restarts for engine in servers.values()])
        for thread in threads:
            thread.join()
    rollouts.sleep()
    for engine in servers.values():
        engine.close()
    return samples, restarts


def asked(folder: Path, role: str) -> list[int]:
    """How many completions each call wanted, in the log of all servers of one role."""
    return [int(count) for count in re.findall(r"asked for (\d+)", (folder / "logs" / f"{role}_rank0.log").read_text())]


def test_engines_that_are_slow_or_hang_or_die_while_a_rank_waits(tmp_path: Path) -> None:
    """The explorer takes longer than a collective may, and so does the silence by which a hung learner is found."""
    write_model(tmp_path / "model")
    first, second = run_ranks(sample_and_lose, 2, tmp_path)
    assert first == ([[*range(14), *range(5)]] * 2, [[0, 0], [1, 1]])
    assert second == ([[], []], [[], []])
    for role, count in (("explorer", 14), ("learner", 5)):
        *whole, rest = asked(tmp_path, role)
        assert whole == [count, count]
        assert rest <= count - 2  # what was finished is kept
