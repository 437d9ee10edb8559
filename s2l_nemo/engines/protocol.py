"""The seam between the trainer and whatever generates tokens: two protocols, their errors, and what a refit cost.

The trainer calls every engine alike. An engine for which a call means nothing does nothing in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from s2l_nemo.types import Completion, SampleRequest, SamplingParams

Bucket = dict[str, torch.Tensor]  # a part of the weights: full tensors under Hugging Face names


class EngineError(RuntimeError):
    """The engine failed, and its process goes on."""


class EngineDied(RuntimeError):
    """The engine's process is gone: it died, or it was ended because it hung."""


class EngineHung(EngineDied):
    """A call passed its deadline. The engine's process has been ended."""


@dataclass(frozen=True)
class RefitStats:
    """One weight update, from its begin to the engine's last answer, with the actor's export of the buckets."""

    seconds: float
    bytes: int

    @property
    def bytes_per_s(self) -> float:
        return self.bytes / self.seconds


class RolloutEngine(Protocol):
    """Samples completions of one fixed model.

    The caller need not know on which device or in which process the model runs, how requests are batched, nor in
    which order rows finish. Each completion is a sample of the model, with the log-probs of its tokens.

    Whether two calls agree depends on the kind of engine. In the embedded engine, also in a server, the tokens of a
    request depend on its seed and its prompt alone, and log-probs agree within 1e-5 in float32, not to the last bit.
    TensorRT-LLM rounds differently in other batches: a call that is repeated may give other tokens.
    """

    @property
    def restarts(self) -> int | None:
        """How often the engine's process was started again. None: it lives in the caller's process."""
        ...

    def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Completion]:
        """One completion per request, in the order of the requests.

        Raises ValueError if prompt + `max_new_tokens` exceeds what the model can hold. Raises EngineDied if the
        engine's process is lost and the engine cannot heal itself.
        """
        ...

    def weight_hash(self) -> str:
        """SHA-256 over all tensors (names, shapes, types, bytes) in name order, as lowercase hex."""
        ...

    def sleep(self) -> None:
        """Gives the device's memory back, if the engine can. `resume` comes before the next `generate`.

        Nothing happens if the engine sleeps already.
        """
        ...

    def resume(self) -> None:
        """Takes the device's memory again. Nothing happens if the engine is awake."""
        ...

    def restart(self) -> None:
        """Ends what is left of the engine's process and starts a new one. The engine is awake afterwards.

        Raises EngineDied if it was lost too often. Raises RuntimeError if the engine lives in the caller's process.
        """
        ...

    def close(self) -> None:
        """Ends the engine's process, if it has one. Nothing of it is left."""
        ...


@runtime_checkable
class LearnerEngine(RolloutEngine, Protocol):
    """An engine whose weights follow the actor's. The frozen explorer's type has no `update_weights`."""

    @property
    def weight_version(self) -> int:
        """Version given with the last complete update; every completion carries it."""
        ...

    @property
    def last_refit(self) -> RefitStats | None:
        """What the last update cost. None if there was none, or if the weights did not go to another process."""
        ...

    def update_weights(self, buckets: Iterable[Bucket], version: int) -> None:
        """Replaces every weight, bucket by bucket. Tied weights come once.

        Raises ValueError for a name that is unknown, missing, repeated or of another shape; the engine then refuses to
        generate until a complete update has succeeded. Raises EngineDied if the engine's process is lost.
        """
        ...


@runtime_checkable
class StreamingEngine(Protocol):
    """An engine that tells of each completion when it is finished. A server then keeps it if the engine is lost."""

    def stream(self, requests: Sequence[SampleRequest], params: SamplingParams) -> Iterator[tuple[int, Completion]]:
        """The completions of `generate` in the order in which they finish, each with the index of its request."""
        ...


class LocalEngine:
    """The part of `RolloutEngine` that is the same in all engines of the caller's own process.

    Such an engine has no process that could be lost or ended. One that can give memory back overrides `sleep` and
    `resume`.
    """

    restarts: int | None = None

    def sleep(self) -> None:
        """Keeps its memory."""

    def resume(self) -> None:
        """Has its memory still."""

    def restart(self) -> None:
        raise RuntimeError("an engine in the caller's process cannot be lost and so not restarted")

    def close(self) -> None:
        """Goes with the caller's process."""
