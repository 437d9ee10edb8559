"""Engines in processes of their own, as the trainer sees them: the protocols of `engines.protocol` over HTTP."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from s2l_nemo.engines.options import EngineConfig
from s2l_nemo.engines.protocol import Bucket, EngineDied, EngineError, RefitStats
from s2l_nemo.engines.served.connection import Connection
from s2l_nemo.engines.served.process import Launch
from s2l_nemo.engines.served.shared_memory import Segment
from s2l_nemo.engines.served.wire import Arrays, Header, pack, pack_requests, unpack_completions
from s2l_nemo.types import Completion, SampleRequest, SamplingParams


@dataclass
class _Work:
    """A call of `generate`, and what has come of it so far."""

    requests: list[SampleRequest]
    params: SamplingParams
    version: int  # of the weights
    finished: dict[int, Completion] = field(default_factory=dict)  # by the index of the request

    def is_of(self, requests: Sequence[SampleRequest], params: SamplingParams, version: int) -> bool:
        """Whether this is the work of these requests with weights of this version."""
        return (self.requests, self.params, self.version) == (list(requests), params, version)

    def left(self) -> list[int]:
        """Indices of the requests that have no completion yet."""
        return [index for index in range(len(self.requests)) if index not in self.finished]

    def completions(self) -> list[Completion]:
        """One for each request, in their order."""
        return [self.finished[index] for index in range(len(self.requests))]


class ServedEngine:
    """The frozen explorer in a process of its own (see `protocol.RolloutEngine`).

    It heals itself. If the process dies or passes a deadline, the engine starts it again and repeats the call, at most
    `engine.max_restarts` times over the run. Completions that were finished are kept; only the others are repeated, and
    their seeds are in the requests. For one thread at a time.

    `engine.request_s` bounds the time between two signs of life of a call that generates, not the call.
    """

    _heals = True

    def __init__(self, launch: Launch, config: EngineConfig) -> None:
        """Returns once the model is loaded. Raises UserError if the server does not start."""
        self._launch = launch
        self._name = launch.settings.name
        self._config = config
        self._weight_hash: str | None = None  # of a frozen engine, once asked for
        self._work: _Work | None = None  # what a lost process has left
        self._weight_version = 0
        self._asleep = False
        self._closed = False
        self.restarts = 0
        self._connection = Connection(launch)

    def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Completion]:
        """See `RolloutEngine.generate`. Raises EngineDied once `engine.max_restarts` is used up."""
        work = self._begun(requests, params)
        while work.left():
            try:
                self._generate(work)
            except EngineDied:
                if not self._heals:
                    raise
                self._heal()
        self._work = None
        return work.completions()

    def weight_hash(self) -> str:
        """See `RolloutEngine.weight_hash`."""
        header, _ = self._ask("/weight_hash", pack({}), "request_s")
        self._weight_hash = str(header["hash"])
        return self._weight_hash

    def sleep(self) -> None:
        """See `RolloutEngine.sleep`."""
        if not self._asleep:
            self._ask("/sleep", pack({}), "update_s")
            self._asleep = True

    def resume(self) -> None:
        """See `RolloutEngine.resume`."""
        if self._asleep:
            self._ask("/resume", pack({}), "update_s")
            self._asleep = False

    def restart(self) -> None:
        """See `RolloutEngine.restart`.

        Raises EngineDied if `engine.max_restarts` is used up or the engine has been closed, UserError if the new server
        does not start.
        """
        if self.restarts == self._config.max_restarts:
            raise EngineDied(
                f"{self._name} was lost {self.restarts + 1} times, more than engine.max_restarts="
                f"{self._config.max_restarts}; {self._connection.last_words()}"
            )
        self.restarts += 1
        self._connection.end()
        self._end_if_closed()
        self._connection = Connection(self._launch)
        self._end_if_closed()
        self._asleep = False

    def close(self) -> None:
        """Shuts the server down, or kills it. Nothing of it is left. A call in another thread raises EngineDied."""
        self._closed = True
        self._connection.close()

    def _end_if_closed(self) -> None:
        if self._closed:
            self._connection.end()
            raise EngineDied(f"{self._name} has been closed")

    def _begun(self, requests: Sequence[SampleRequest], params: SamplingParams) -> _Work:
        """The work of a call that a lost process has interrupted, if this is the same call again; else new work."""
        if self._work is None or not self._work.is_of(requests, params, self._weight_version):
            self._work = _Work(list(requests), params, self._weight_version)
        return self._work

    def _generate(self, work: _Work) -> None:
        """Keeps every completion that comes, also if the process is lost before the last one."""
        limit = (self._config.request_s, "engine.request_s")
        left = work.left()
        requests = [work.requests[index] for index in left]
        self._connection.send("/generate", pack_requests(requests, work.params), *limit)
        for arrays in self._connection.replies("/generate", *limit):
            for index, completion in unpack_completions(arrays):
                if not 0 <= index < len(left):
                    raise EngineError(f"{self._name} gave a completion of request {index} of {len(left)}")
                work.finished[left[index]] = completion
        if work.left():
            raise EngineError(f"{self._name} gave no completion of {len(work.left())} of {len(left)} requests")

    def _ask(self, path: str, body: bytes, deadline: Literal["request_s", "update_s"]) -> tuple[Header, Arrays]:
        while True:
            try:
                return self._connection.ask(path, body, getattr(self._config, deadline), f"engine.{deadline}")
            except EngineDied:
                if not self._heals:
                    raise
                self._heal()

    def _heal(self) -> None:
        """Raises EngineError if the new server has loaded other weights than the run began with."""
        before = self._weight_hash
        self.restart()
        if before is not None and self.weight_hash() != before:
            raise EngineError(
                f"{self._name} has other weights after its restart ({str(self._weight_hash)[:12]}, not "
                f"{before[:12]}): the model was changed during the run"
            )


class ServedLearnerEngine(ServedEngine):
    """The learner's engine in a process of its own (see `protocol.LearnerEngine`).

    It cannot heal itself, because only the actor has the weights. If the process dies or passes a deadline, the call
    raises EngineDied or EngineHung. The caller then restarts the engine, updates it and repeats the call. Completions
    that were finished are kept if the weights have the same version as before.
    """

    _heals = False

    def __init__(self, launch: Launch, config: EngineConfig) -> None:
        super().__init__(launch, config)
        self._segments = (Segment(0), Segment(1))
        self._must_update = False
        self.last_refit: RefitStats | None = None

    @property
    def weight_version(self) -> int:
        """Version given with the last complete update; 0 before the first, and after a restart."""
        return self._weight_version

    def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Completion]:
        """See `RolloutEngine.generate`.

        Raises EngineError after a restart or an incomplete update, until an update is complete. Raises EngineDied if
        the process died, EngineHung if it passed `engine.request_s`.
        """
        if self._must_update:
            raise EngineError(f"{self._name} has been restarted: update its weights first")
        return super().generate(requests, params)

    def restart(self) -> None:
        """As the base class; the new server must be updated before it generates."""
        super().restart()
        self._weight_version, self._must_update = 0, True

    def update_weights(self, buckets: Iterable[Bucket], version: int) -> None:
        """See `LearnerEngine.update_weights`. Copies each bucket once, while the server loads the one before.

        All of `buckets` is consumed even if this raises: other ranks may take part in making them. Raises EngineDied
        or EngineHung if the process is lost. Raises EngineError or ValueError if the engine fails; it then refuses to
        generate until an update succeeds.
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
