"""The ranks of a run: which requests each of them samples, and how they speak to each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from s2l_nemo.algorithm.sharing import shares
from s2l_nemo.types import SampleRequest

Value = TypeVar("Value")
Words = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Ranks:
    """All ranks, as one of them sees them.

    `leaders` are the ranks that speak to engines. With embedded engines that is every rank. With servers it is one rank
    for each pair of servers.

    A replica is the TP x PP ranks that train one copy of the model. All of them train on the same groups.
    """

    rank: int  # this one
    leaders: tuple[int, ...]
    replica_of: tuple[int, ...]  # of each rank
    torch_group: Any = None  # the ranks of this replica; None: all ranks
    beat_s: float = 5.0  # how often a rank that works tells the others so

    @property
    def world(self) -> int:
        return len(self.replica_of)

    @property
    def replica(self) -> int:
        """That of this rank."""
        return self.replica_of[self.rank]

    def members(self, replica: int) -> list[int]:
        """The ranks of a replica. The first one speaks for it."""
        return [rank for rank, its in enumerate(self.replica_of) if its == replica]

    def share(self, requests: Sequence[SampleRequest]) -> list[SampleRequest]:
        """The requests that this rank's engine samples; none if this rank is no leader.

        The leaders' shares are a partition of the requests; see `algorithm.sharing`.
        """
        if self.rank not in self.leaders:
            return []
        return shares(requests, len(self.leaders))[self.leaders.index(self.rank)]

    def work(self, *jobs: Callable[[], Value]) -> list[Value]:
        """Runs jobs of this rank in threads, at the same time. Returns once those of every rank are done. Collective.

        Meanwhile the ranks tell each other every `beat_s` seconds who still works. So a rank waits for another in many
        short collectives, and the timeout of the process groups does not bound what the jobs may take. The jobs must
        not speak to other ranks. The first error of a job is raised at once, while other jobs of this rank go on.
        """
        pool = ThreadPoolExecutor(max(1, len(jobs)))
        try:
            running = [pool.submit(job) for job in jobs]
            while True:
                done, busy = wait(running, self.beat_s, FIRST_EXCEPTION)
                for job in done:
                    job.result()
                if not any(self.gather(bool(busy))):
                    return [job.result() for job in running]
        finally:
            pool.shutdown(wait=False)

    def barrier(self) -> None:
        """Returns once every rank has come here. Collective."""
        torch.distributed.barrier()

    def gather(self, value: Value) -> list[Value]:
        """The values of all ranks, in their order, on every rank. Collective."""
        gathered: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(gathered, value)
        return gathered

    def gather_in_replica(self, value: Value) -> list[Value]:
        """The values of this replica's ranks, in their order, on each of them. Collective."""
        gathered: list[Any] = [None] * len(self.members(self.replica))
        torch.distributed.all_gather_object(gathered, value, group=self.torch_group)
        return gathered

    def swap(self, sent: Mapping[int, Words], sizes: Mapping[int, int]) -> dict[int, Words]:
        """Sends an array to each rank of `sent`, and receives one of the given size from each rank of `sizes`.

        An array that goes to several ranks is not copied. Collective: what one rank sends, the other must expect.
        """
        received = {rank: np.empty(size, np.int32) for rank, size in sizes.items()}
        waiting = [torch.distributed.irecv(torch.from_numpy(array), rank) for rank, array in received.items()]
        waiting += [torch.distributed.isend(torch.from_numpy(array), rank) for rank, array in sent.items()]
        for work in waiting:
            assert work is not None  # this rank is in the group
            work.wait()
        return received

    def send(self, data: bytes, rank: int) -> None:
        """Waits until the other rank takes it with `receive`."""
        torch.distributed.send(torch.tensor([len(data)]), rank)
        torch.distributed.send(torch.frombuffer(bytearray(data), dtype=torch.uint8), rank)

    def receive(self, rank: int) -> bytes:
        """What the other rank gives to `send`; it may not be empty."""
        size = torch.empty(1, dtype=torch.long)
        torch.distributed.recv(size, rank)
        data = torch.empty(int(size.item()), dtype=torch.uint8)
        torch.distributed.recv(data, rank)
        return data.numpy().tobytes()
