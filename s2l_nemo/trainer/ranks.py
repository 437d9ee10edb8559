"""The ranks of a run: which requests each of them samples, and how all come to know the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from s2l_nemo.algorithm.groups import share
from s2l_nemo.types import Completion, SampleRequest

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """All ranks, as one of them sees them.

    `leaders` are the ranks that speak to engines. With embedded engines that is every rank. With servers it is one rank
    for each pair of servers.
    """

    rank: int  # this one
    world: int
    leaders: tuple[int, ...]

    def share(self, requests: Sequence[SampleRequest]) -> list[SampleRequest]:
        """The requests that this rank's engine samples; none if this rank is no leader.

        The leaders' shares are a partition of the requests; see `algorithm.groups.share`.
        """
        if self.rank not in self.leaders:
            return []
        return share(requests, self.leaders.index(self.rank), len(self.leaders))

    def exchange(self, completions: list[Completion]) -> list[Completion]:
        """The completions of all ranks, the same list on every rank. Collective."""
        return [completion for part in self.gather(completions) for completion in part]

    def gather(self, value: Value) -> list[Value]:
        """The values of all ranks, in their order, on every rank. Collective."""
        gathered: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(gathered, value)
        return gathered
