"""A call that generates, from the client to the engine: completions come as they finish, and a loss costs the rest."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.engines.options import EngineConfig
from s2l_nemo.engines.protocol import EngineDied, EngineError, LocalEngine, RolloutEngine
from s2l_nemo.engines.served import connection, host
from s2l_nemo.engines.served.client import ServedEngine, ServedLearnerEngine
from s2l_nemo.engines.served.endpoints import EngineServer
from s2l_nemo.engines.served.host import EngineHost
from s2l_nemo.engines.served.process import Launch
from s2l_nemo.engines.served.wire import pack, pack_requests
from s2l_nemo.engines.settings import EngineSettings
from s2l_nemo.models.precision import Precision
from s2l_nemo.types import Completion, SampleRequest, SamplingParams, Source
from tests.arrays import ids, lps

SETTINGS = EngineSettings(Source.LEARNER, "model.path", "large", Precision.fp32, "cpu", 8, 64, 1, 0.4)
LAUNCH = Launch("package:maker", SETTINGS, "python", None, Path("log"), startup_s=1.0)
PARAMS = SamplingParams(4, ())
REQUESTS = [SampleRequest(prompt, sample, (prompt + 1,), 7) for prompt in range(2) for sample in range(3)]
CONFIG = EngineConfig(request_s=600.0, update_s=600.0)

Stop = Callable[[], None]


class Blocking(LocalEngine):
    """Answers with the prompt. `asked` are the (prompt, sample) of each call."""

    def __init__(self) -> None:
        self.asked: list[list[tuple[int, int]]] = []
        self.weight_version = 0
        self.last_refit = None
        self.before: dict[int, Stop] = {}  # what happens before the n-th completion of the next call

    def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Completion]:
        self._note(requests)
        return [self._completion(request) for request in requests]

    def weight_hash(self) -> str:
        return "ab"

    def update_weights(self, buckets: Any, version: int) -> None:
        assert list(buckets) == []
        self.weight_version = version

    def _note(self, requests: Sequence[SampleRequest]) -> None:
        self.asked.append([(request.prompt_id, request.sample_id) for request in requests])

    def _completion(self, request: SampleRequest) -> Completion:
        its = (request.prompt_id, request.sample_id)
        return Completion(*its, Source.LEARNER, ids(request.prompt_token_ids), lps([-0.5]), "stop", self.weight_version)


class Streaming(Blocking):
    """The last request is finished first."""

    def stream(self, requests: Sequence[SampleRequest], params: SamplingParams) -> Iterator[tuple[int, Completion]]:
        self._note(requests)
        before, self.before = self.before, {}
        for count, index in enumerate(reversed(range(len(requests)))):
            before.get(count, lambda: None)()
            yield index, self._completion(requests[index])


class Process:
    """Stands for a `ServerProcess`: a real server around the engine, in threads of this process."""

    def __init__(self, engine: RolloutEngine) -> None:
        self.token = "a1" * 32
        self._host = EngineHost(engine, rows_of_part=4)
        self._server = EngineServer(self._host, self.token)
        self.port = self._server.port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        threading.Thread(target=self._host.run, daemon=True).start()

    def last_words(self) -> str:
        return "the log ends"

    def wait(self, seconds: float) -> bool:
        assert seconds > 0
        return True

    def end(self) -> None:
        self._host.stop()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Streaming:
    """What all servers of a test host. Each completion is a message."""
    streaming = Streaming()
    monkeypatch.setattr(host, "_PART_S", 0.0)
    monkeypatch.setattr(connection, "ServerProcess", lambda launch: Process(streaming))
    return streaming


def given(completions: Sequence[Completion]) -> list[tuple[int, int, list[int]]]:
    return [(c.prompt_id, c.sample_id, c.token_ids.tolist()) for c in completions]


ALL = [(request.prompt_id, request.sample_id) for request in REQUESTS]
ANSWERS = [(prompt, sample, [prompt + 1]) for prompt, sample in ALL]


def lose(served: ServedEngine) -> Stop:
    """Breaks the connection from the client's side, once the completions so far have come."""

    def stop() -> None:
        work = served._work
        assert work is not None
        while len(work.finished) < 2:
            threading.Event().wait(0.01)
        served._connection._http.sock.shutdown(2)

    return stop


def test_completions_come_as_they_finish_and_in_the_order_of_the_requests(engine: Streaming) -> None:
    served = ServedEngine(LAUNCH, CONFIG)
    come: list[int] = []

    def look() -> None:
        assert served._work is not None
        while len(served._work.finished) < 3:  # for ever, unless they come before the end of the call
            threading.Event().wait(0.01)
        come.extend(served._work.finished)

    engine.before = {3: look}
    assert given(served.generate(REQUESTS, PARAMS)) == ANSWERS
    assert come == [5, 4, 3]
    assert given(served.generate([], PARAMS)) == []
    served.close()


def test_an_engine_that_does_not_stream_is_asked_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    blocking = Blocking()
    monkeypatch.setattr(connection, "ServerProcess", lambda launch: Process(blocking))
    served = ServedEngine(LAUNCH, CONFIG)
    assert given(served.generate(REQUESTS, PARAMS)) == ANSWERS
    assert blocking.asked == [ALL[:4], ALL[4:]]
    served.close()


def test_a_lost_explorer_repeats_what_is_left(engine: Streaming) -> None:
    served = ServedEngine(LAUNCH, CONFIG)
    engine.before = {2: lose(served)}
    assert given(served.generate(REQUESTS, PARAMS)) == ANSWERS
    assert engine.asked == [ALL, ALL[:4]]
    assert served.restarts == 1
    assert given(served.generate(REQUESTS, PARAMS)) == ANSWERS
    assert engine.asked[2:] == [ALL]  # a call that is over leaves nothing
    served.close()


@pytest.mark.parametrize(("version", "repeated"), [(3, ALL[:4]), (4, ALL)])
def test_a_lost_learner_repeats_what_is_left_with_the_same_weights(
    engine: Streaming, version: int, repeated: list[tuple[int, int]]
) -> None:
    served = ServedLearnerEngine(LAUNCH, CONFIG)
    served.update_weights([], 3)
    engine.before = {2: lose(served)}
    with pytest.raises(EngineDied):
        served.generate(REQUESTS, PARAMS)
    served.restart()
    served.update_weights([], version)
    completions = served.generate(REQUESTS, PARAMS)
    assert given(completions) == ANSWERS
    assert {completion.weight_version for completion in completions} == {version}
    assert engine.asked == [ALL, repeated]
    served.close()


def test_other_requests_do_not_take_what_a_lost_learner_left(engine: Streaming) -> None:
    served = ServedLearnerEngine(LAUNCH, CONFIG)
    engine.before = {2: lose(served)}
    with pytest.raises(EngineDied):
        served.generate(REQUESTS, PARAMS)
    served.restart()
    served.update_weights([], 0)
    served.generate(REQUESTS[1:], PARAMS)
    assert engine.asked[1:] == [ALL[1:]]
    served.close()


@pytest.mark.parametrize(("error", "told"), [(ValueError("too long"), ValueError), (RuntimeError("full"), EngineError)])
def test_an_error_between_two_completions(engine: Streaming, error: Exception, told: type[Exception]) -> None:
    served = ServedEngine(LAUNCH, CONFIG)

    def fail() -> None:
        raise error

    engine.before = {2: fail}
    with pytest.raises(told, match=str(error)):
        served.generate(REQUESTS, PARAMS)
    assert given(served.generate(REQUESTS, PARAMS)) == ANSWERS  # on the same connection
    assert served.restarts == 0
    served.close()


def test_an_engine_that_leaves_requests_out(engine: Streaming, monkeypatch: pytest.MonkeyPatch) -> None:
    served = ServedEngine(LAUNCH, CONFIG)
    monkeypatch.setattr(engine, "stream", lambda requests, params: iter([(0, engine._completion(requests[0]))]))
    with pytest.raises(EngineError, match=r"gave no completion of 5 of 6 requests"):
        served.generate(REQUESTS, PARAMS)
    served.close()


def test_a_peer_that_leaves_does_not_stop_the_engine(engine: Streaming) -> None:
    process = Process(engine)
    peer = http.client.HTTPConnection("127.0.0.1", process.port, timeout=600)
    gone = threading.Event()

    def wait() -> None:
        assert gone.wait(600)

    engine.before = {1: wait}
    authorization = {"Authorization": f"Bearer {process.token}"}
    peer.request("POST", "/generate", pack_requests(REQUESTS, PARAMS), authorization)
    assert peer.getresponse().status == 200
    peer.close()
    gone.set()
    other = http.client.HTTPConnection("127.0.0.1", process.port, timeout=600)
    other.request("POST", "/weight_hash", pack({}), authorization)
    assert other.getresponse().status == 200
    other.close()
    process.end()
