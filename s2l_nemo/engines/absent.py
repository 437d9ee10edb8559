"""Engines of a rank that speaks to no server: other ranks of its node do."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from s2l_nemo.engines.protocol import Bucket, LocalEngine, RefitStats
from s2l_nemo.types import Completion, SampleRequest, SamplingParams


class AbsentEngine(LocalEngine):
    """Samples nothing. It lets all ranks run the same code."""

    def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Completion]:
        """No completions. The rank has no share of the requests."""
        assert not requests
        return []

    def weight_hash(self) -> str:
        raise RuntimeError("only the rank that speaks to the server knows its weights")


class AbsentLearnerEngine(AbsentEngine):
    """Takes no weights."""

    weight_version = 0
    last_refit: RefitStats | None = None

    def update_weights(self, buckets: Iterable[Bucket], version: int) -> None:
        """Takes part in making the buckets, which all ranks must."""
        deque(buckets, maxlen=0)
