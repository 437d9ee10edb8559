"""What two engines promise each other: the same tokens, and log-probs that agree within a bound.

A matrix product may choose another kernel for another number of rows, another number of threads or another processor.
The same request therefore has log-probs that differ in their last bits between two processes, or between two batches.
Bits are equal only in one process, with one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from s2l_nemo.types import Completion
from tests.arrays import lps

LOGPROB_BOUND = 1e-5  # nats a token, in float32


def assert_same_completions(one: Sequence[Completion], other: Sequence[Completion]) -> None:
    """Everything is equal except the log-probs, which agree within `LOGPROB_BOUND`."""
    nothing = lps([])
    assert [replace(completion, logprobs=nothing) for completion in one] == [
        replace(completion, logprobs=nothing) for completion in other
    ]
    for mine, theirs in zip(one, other, strict=True):
        assert mine.logprobs == pytest.approx(theirs.logprobs, rel=0, abs=LOGPROB_BOUND)
