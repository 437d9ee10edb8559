"""Ranks that are threads of this process, for what several of them do together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Queue
from typing import Any, TypeVar

from s2l_nemo.trainer.ranks import Ranks, Value, Words

Result = TypeVar("Result")


class World:
    """What its ranks share. A rank that fails breaks the barrier, so that no other waits for it."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size)
        self.values: list[Any] = [None] * size
        self.ways: dict[tuple[int, int], Queue[Any]] = {(a, b): Queue() for a in range(size) for b in range(size)}


@dataclass(frozen=True)
class ThreadRanks(Ranks):
    """As `Ranks`, without torch."""

    shared: World = field(kw_only=True)

    def barrier(self) -> None:
        self.shared.barrier.wait()

    def gather(self, value: Value) -> list[Value]:
        self.shared.values[self.rank] = value
        self.shared.barrier.wait()
        values = list(self.shared.values)
        self.shared.barrier.wait()
        return values

    def gather_in_replica(self, value: Value) -> list[Value]:
        return [self.gather(value)[rank] for rank in self.members(self.replica)]

    def swap(self, sent: Mapping[int, Words], sizes: Mapping[int, int]) -> dict[int, Words]:
        for rank, array in sent.items():
            self.shared.ways[self.rank, rank].put(array.copy())
        self.shared.barrier.wait()
        received = {rank: self.shared.ways[rank, self.rank].get_nowait() for rank in sizes}
        assert {rank: len(array) for rank, array in received.items()} == dict(sizes)
        self.shared.barrier.wait()
        assert all(way.empty() for way in self.shared.ways.values())
        return received

    def send(self, data: bytes, rank: int) -> None:
        self.shared.ways[self.rank, rank].put(data)

    def receive(self, rank: int) -> bytes:
        data: bytes = self.shared.ways[rank, self.rank].get(timeout=60)
        return data


def on_all_ranks(
    job: Callable[[ThreadRanks], Result], replica_of: Sequence[int], leaders: Sequence[int] | None = None
) -> list[Result]:
    """What the job returns on each rank; by default all are leaders. Raises what it raises on one of them."""
    world = World(len(replica_of))
    all_leaders = tuple(range(len(replica_of))) if leaders is None else tuple(leaders)

    def run(rank: int) -> Result:
        try:
            return job(ThreadRanks(rank, all_leaders, tuple(replica_of), shared=world))
        except BaseException:
            world.barrier.abort()
            raise

    with ThreadPoolExecutor(len(replica_of)) as pool:
        jobs = [pool.submit(run, rank) for rank in range(len(replica_of))]
    errors = [error for error in (done.exception() for done in jobs) if error is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [done.result() for done in jobs]
