"""Engines in processes of their own, as the trainer sees them: the protocols of `rollout.engine`, plus restarts."""

from __future__ import annotations

import itertools
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeVar, overload

import torch

from s2l_nemo.config.schema import EngineConfig, EngineKind, Precision
from s2l_nemo.engines.served.connection import Connection, EngineDied, EngineError, EngineHung
from s2l_nemo.engines.served.process import Launch
from s2l_nemo.engines.served.shared_memory import Bucket, Segment
from s2l_nemo.engines.served.wire import Arrays, Header, pack, pack_requests, unpack_completions
from s2l_nemo.types import Completion, SampleRequest, SamplingParams

__all__ = [
    "EngineDied",
    "EngineError",
    "EngineHung",
    "RefitStats",
    "ServedEngine",
    "ServedLearnerEngine",
    "start_server",
]

Engine = TypeVar("Engine", bound="ServedEngine")


@dataclass(frozen=True)
class RefitStats:
    """One weight update: from its begin to the engine's last answer, the actor's export of the buckets included."""

    seconds: float
    bytes: int

    @property
    def bytes_per_s(self) -> float:
        return self.bytes / self.seconds


class ServedEngine:
    """The frozen explorer in a process of its own (see `rollout.engine.RolloutEngine`).

    It heals itself: where the process dies or passes a deadline, it is started again, at most `engine.max_restarts`
    times, and the call is repeated; seeds are in the requests, so the tokens are the same. For one thread at a time.
    """

    _heals = True

    def __init__(self, launch: Launch, config: EngineConfig) -> None:
        """Returns once the model is loaded. Raises UserError where the server does not start."""
        self._launch = launch
        self._config = config
        self._weight_hash: str | None = None  # of a frozen engine, once asked for
        self.restarts = 0
        self._connection = Connection(launch)

    def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Completion]:
        """See `RolloutEngine.generate`. Raises EngineError, and EngineDied once `engine.max_restarts` is used up."""
        _, arrays = self._ask("/generate", pack_requests(requests, params), "request_s")
        return unpack_completions(arrays)

    def weight_hash(self) -> str:
        """See `RolloutEngine.weight_hash`."""
        header, _ = self._ask("/weight_hash", pack({}), "request_s")
        self._weight_hash = str(header["hash"])
        return self._weight_hash

    def sleep(self) -> None:
        """Lets go of the device's memory, where the engine can; `resume` comes before the next call."""
        self._ask("/sleep", pack({}), "update_s")

    def resume(self) -> None:
        """Takes the device's memory again."""
        self._ask("/resume", pack({}), "update_s")

    def check(self) -> None:
        """Asks for a sign of life. Raises, or heals, as any other call."""
        self._ask("/health", pack({}), "update_s")

    def restart(self) -> None:
        """Ends what is left of the server and starts a new one.

        Raises EngineDied where `engine.max_restarts` is used up, UserError where the new one does not start.
        """
        if self.restarts == self._config.max_restarts:
            raise EngineDied(
                f"{self._launch.name} was lost {self.restarts + 1} times, more than engine.max_restarts="
                f"{self._config.max_restarts}; {self._connection.last_words()}"
            )
        self.restarts += 1
        self._connection.end()
        self._connection = Connection(self._launch)

    def close(self) -> None:
        """Shuts the server down, or kills it. Nothing of it is left."""
        self._connection.close()

    def __enter__(self: Engine) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _ask(self, path: str, body: bytes, deadline: Literal["request_s", "update_s"]) -> tuple[Header, Arrays]:
        while True:
            try:
                return self._connection.ask(path, body, getattr(self._config, deadline), f"engine.{deadline}")
            except EngineDied:
                if not self._heals:
                    raise
                self._heal()

    def _heal(self) -> None:
        """Raises EngineError where the new server has loaded other weights than the run began with."""
        before = self._weight_hash
        self.restart()
        if before is not None and self.weight_hash() != before:
            raise EngineError(
                f"{self._launch.name} has other weights after its restart ({str(self._weight_hash)[:12]}, not "
                f"{before[:12]}): the model was changed during the run"
            )


class ServedLearnerEngine(ServedEngine):
    """The learner's engine in a process of its own (see `rollout.engine.LearnerEngine`).

    Where the process dies or passes a deadline, the call raises EngineDied or EngineHung: only the actor has the
    weights. `restart` it and update it, then repeat the call.
    """

    _heals = False

    def __init__(self, launch: Launch, config: EngineConfig) -> None:
        super().__init__(launch, config)
        self._segments = (Segment(0), Segment(1))
        self._weight_version = 0
        self._must_update = False
        self.last_refit: RefitStats | None = None

    @property
    def weight_version(self) -> int:
        """Version given with the last complete update; 0 before the first, and after a restart."""
        return self._weight_version

    def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Completion]:
        """As the base class. Raises EngineError after a restart or an incomplete update, until one is complete.

        Raises EngineDied where the process died, EngineHung where it passed `engine.request_s`.
        """
        if self._must_update:
            raise EngineError(f"{self._launch.name} has been restarted: update its weights first")
        return super().generate(requests, params)

    def restart(self) -> None:
        """As the base class; the new server must be updated before it generates."""
        super().restart()
        self._weight_version, self._must_update = 0, True

    def update_weights(self, buckets: Iterable[Bucket], version: int) -> None:
        """See `LearnerEngine.update_weights`. Each bucket is copied once here, while the server loads the one before.

        All of `buckets` is consumed even if this raises: other ranks may take part in making them. Raises EngineDied
        or EngineHung where the process is lost, and EngineError or ValueError where the engine fails; it then refuses
        to generate until an update succeeds.
        """
        started = time.perf_counter()
        arriving = iter(buckets)
        try:
            self._ask("/update/begin", pack({"version": version}), "update_s")
            total = self._send(arriving)
            self._ask("/update/end", pack({}), "update_s")
        finally:
            deque(arriving, maxlen=0)
        self._weight_version, self._must_update = version, False
        self.last_refit = RefitStats(time.perf_counter() - started, total)

    def close(self) -> None:
        super().close()
        for segment in self._segments:
            segment.close()

    def _send(self, buckets: Iterator[Bucket]) -> int:
        """Returns the bytes of all buckets."""
        path, limit = "/update/bucket", (self._config.update_s, "engine.update_s")
        segments = itertools.cycle(self._segments)
        total, sent = 0, False
        for bucket in buckets:
            layout = next(segments).write(bucket)
            total += sum(tensor.numel() * tensor.element_size() for tensor in bucket.values())
            del bucket  # so that it need not stay while the next one is made
            if sent:
                self._connection.reply(path, *limit)
            self._connection.send(path, pack({"layout": layout}), *limit)
            sent = True
        if sent:
            self._connection.reply(path, *limit)
        return total


@overload
def start_server(
    config: EngineConfig,
    role: Literal["explorer"],
    key: str,
    path: str,
    *,
    dtype: Precision,
    device: torch.device,
    max_batch_rows: int,
    max_sequence_length: int,
    log: Path,
) -> ServedEngine: ...


@overload
def start_server(
    config: EngineConfig,
    role: Literal["learner"],
    key: str,
    path: str,
    *,
    dtype: Precision,
    device: torch.device,
    max_batch_rows: int,
    max_sequence_length: int,
    log: Path,
) -> ServedLearnerEngine: ...


def start_server(
    config: EngineConfig,
    role: Literal["explorer", "learner"],
    key: str,
    path: str,
    *,
    dtype: Precision,
    device: torch.device,
    max_batch_rows: int,
    max_sequence_length: int,
    log: Path,
) -> ServedEngine | ServedLearnerEngine:
    """Starts the server of the model at `path`, which the configuration key `key` names, and waits until it is loaded.

    What the engine prints is appended to `log`. Raises UserError, with the log's last lines, where it does not start.
    """
    setup = {
        "role": role,
        "kind": EngineKind.tensorrt_llm.value if config.kind is EngineKind.tensorrt_llm else EngineKind.embedded.value,
        "key": key,
        "path": path,
        "dtype": dtype.value,
        "device": str(device),
        "max_batch_rows": max_batch_rows,
        "max_sequence_length": max_sequence_length,
        "tensor_parallel_size": config.tensor_parallel_size,
        "memory_fraction": config.memory_fraction,
    }
    launch = Launch(
        name=f"the {role} engine ({key}={path})",
        python=config.python or sys.executable,
        setup=setup,
        devices=config.explorer_devices if role == "explorer" else config.learner_devices,
        log=log,
        startup_s=config.startup_s,
    )
    return ServedEngine(launch, config) if role == "explorer" else ServedLearnerEngine(launch, config)
