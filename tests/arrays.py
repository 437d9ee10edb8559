"""Token ids and log-probs as the arrays of a `Completion`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from s2l_nemo.types import Completion, LogProbs, TokenIds


def ids(tokens: Iterable[int]) -> TokenIds:
    return np.array(list(tokens), np.int32)


def lps(logprobs: Iterable[float]) -> LogProbs:
    return np.array(list(logprobs), np.float32)


def tokens_of(completions: Iterable[Completion]) -> list[list[int]]:
    return [completion.token_ids.tolist() for completion in completions]
