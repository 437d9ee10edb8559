"""The seam between the trainer and whatever generates tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch

from s2l_nemo.types import Completion, SampleRequest, SamplingParams


class RolloutEngine(Protocol):
    """Samples completions of one fixed model.

    The caller need not know on which device or in which process the model runs, how requests are batched, nor in
    which order rows finish. The tokens of a request depend on its seed and its prompt, not on its neighbours. Log-probs
    of two engines agree within 1e-5 in float32, not to the last bit.
    """

    def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Completion]:
        """One completion per request, in the order of the requests.

        Raises ValueError where prompt + `max_new_tokens` exceeds what the model can hold.
        """
        ...

    def weight_hash(self) -> str:
        """SHA-256 over all tensors (names, shapes, types, bytes) in name order, as lowercase hex."""
        ...


class LearnerEngine(RolloutEngine, Protocol):
    """An engine whose weights follow the actor's. The frozen explorer's type has no `update_weights`."""

    @property
    def weight_version(self) -> int:
        """Version given with the last complete update; every completion carries it."""
        ...

    def update_weights(self, buckets: Iterable[dict[str, torch.Tensor]], version: int) -> None:
        """Replaces every weight, bucket by bucket, by full tensors under Hugging Face names.

        Tied weights come once. Raises ValueError for a name that is unknown, missing, repeated or of another shape;
        the engine then refuses to generate until a complete update has succeeded.
        """
        ...
