"""One engine behind many connections: every call of it runs in one thread, in order of arrival."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TypeVar

from s2l_nemo.engines.protocol import Bucket, LearnerEngine, RolloutEngine, StreamingEngine
from s2l_nemo.types import Completion, SampleRequest, SamplingParams

Result = TypeVar("Result")
Finished = tuple[int, Completion]  # with the index of its request
_PART_S = 0.2  # a message for each completion would take time from the engine


class UpdateAborted(RuntimeError):
    """The buckets of an update stopped coming."""


class Update:
    """One `update_weights` of an engine, whose buckets come in one by one. `run` is for the engine's thread."""

    def __init__(self, engine: LearnerEngine, version: int) -> None:
        self._engine = engine
        self._version = version
        self._buckets: queue.SimpleQueue[Bucket | UpdateAborted | None] = queue.SimpleQueue()
        self._taken: queue.SimpleQueue[bool] = queue.SimpleQueue()  # one answer to each: whether the engine wants more
        self.outcome: Future[None] = Future()

    def run(self) -> None:
        """Returns when the engine's call has ended. Its error is in `outcome`."""
        try:
            self._engine.update_weights(self._arriving(), self._version)
        except Exception as error:
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(None)
        self._taken.put(False)

    def add(self, bucket: Bucket) -> None:
        """Returns once the engine has loaded the bucket. Raises what its `update_weights` raises."""
        self._buckets.put(bucket)
        if not self._taken.get():
            self.outcome.result()
            raise RuntimeError("the engine ended the weight update before its last bucket")

    def finish(self) -> None:
        """Returns once the engine has all weights. Raises what its `update_weights` raises."""
        self._buckets.put(None)
        self.outcome.result()

    def abort(self) -> None:
        """Ends the engine's call, which then knows that its weights are a mixture."""
        self._buckets.put(UpdateAborted(f"the update to weight version {self._version} was given up"))

    def _arriving(self) -> Iterator[Bucket]:
        while (bucket := self._buckets.get()) is not None:
            if isinstance(bucket, UpdateAborted):
                raise bucket
            yield bucket
            del bucket  # or its memory would stay mapped while this waits
            self._taken.put(True)


class EngineHost:
    """Owns an engine. `run` does what `call` and the update methods ask for, in the thread that made the engine.

    An update that does not go on to its end is given up as soon as anything else is asked. So no call waits for it.
    """

    def __init__(self, engine: RolloutEngine, rows_of_part: int) -> None:
        """An engine that does not stream is asked for at most `rows_of_part` completions at once."""
        self.engine = engine
        self._rows_of_part = rows_of_part
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._update: Update | None = None

    def run(self) -> None:
        """Runs calls until `stop`."""
        while (call := self._calls.get()) is not None:
            call()

    def stop(self) -> None:
        """Ends `run` after the calls that have come."""
        self._give_up()
        self._calls.put(None)

    def call(self, function: Callable[[], Result]) -> Result:
        """What `function` returns or raises, run in the engine's thread."""
        self._give_up()
        future: Future[Result] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

        self._calls.put(run)
        return future.result()

    def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> Iterator[list[Finished]]:
        """All completions, in parts: what has finished since the part before. Raises what the engine raises."""
        self._give_up()
        finished: queue.SimpleQueue[list[Finished] | Exception | None] = queue.SimpleQueue()

        def run() -> None:
            try:
                for part in self._parts(requests, params):
                    finished.put(part)
                finished.put(None)
            except Exception as error:
                finished.put(error)

        self._calls.put(run)
        while (part := finished.get()) is not None:
            if isinstance(part, Exception):
                raise part
            yield part

    def _parts(self, requests: Sequence[SampleRequest], params: SamplingParams) -> Iterator[list[Finished]]:
        if isinstance(self.engine, StreamingEngine):
            part: list[Finished] = []
            begun = time.monotonic()
            for finished in self.engine.stream(requests, params):
                part.append(finished)
                if time.monotonic() - begun >= _PART_S:
                    yield part
                    part, begun = [], time.monotonic()
            yield part
            return
        for start in range(0, len(requests), self._rows_of_part):
            asked = requests[start : start + self._rows_of_part]
            yield list(enumerate(self.engine.generate(asked, params), start))

    def begin_update(self, version: int) -> None:
        """Raises RuntimeError if the engine is an explorer."""
        if not isinstance(self.engine, LearnerEngine):
            raise RuntimeError("the explorer is frozen")
        self._give_up()
        self._update = Update(self.engine, version)
        self._calls.put(self._update.run)

    def add_bucket(self, bucket: Bucket) -> None:
        """See `Update.add`. The update is over if this raises."""
        self._going_on().add(bucket)

    def finish_update(self) -> None:
        """See `Update.finish`."""
        update, self._update = self._going_on(), None
        update.finish()

    def _going_on(self) -> Update:
        if self._update is None or self._update.outcome.done():
            raise RuntimeError("no weight update is going on: begin one")
        return self._update

    def _give_up(self) -> None:
        if self._update is not None:
            self._update.abort()
            self._update = None
