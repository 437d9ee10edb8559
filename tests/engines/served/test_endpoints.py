"""The server's HTTP side, around a scripted engine: who is let in, and what a bad peer can do."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterable, Iterator, Sequence

import pytest
import torch

from s2l_nemo.engines.absent import AbsentEngine
from s2l_nemo.engines.protocol import Bucket, LocalEngine, RefitStats
from s2l_nemo.engines.served import endpoints
from s2l_nemo.engines.served.endpoints import LARGEST_BODY, EngineServer
from s2l_nemo.engines.served.host import EngineHost
from s2l_nemo.engines.served.shared_memory import Segment
from s2l_nemo.engines.served.wire import (
    FRAME_BYTES,
    Array,
    Header,
    pack,
    pack_requests,
    unpack,
    unpack_completions,
)
from s2l_nemo.types import Completion, SampleRequest, SamplingParams, Source
from tests.arrays import ids, lps

TOKEN = "a1" * 32
REQUEST = pack_requests([SampleRequest(1, 2, (3, 4), 5)], SamplingParams(2, (7,)))


def messages(body: bytes) -> list[tuple[Header, dict[str, Array]]]:
    """Those of a reply in parts."""
    found = []
    while body:
        end = FRAME_BYTES + int.from_bytes(body[:FRAME_BYTES], "little")
        found.append(unpack(body[FRAME_BYTES:end]))
        body = body[end:]
    return found


class ScriptedEngine(LocalEngine):
    """Answers every request with its prompt; notes what was asked and the thread."""

    weight_version = 0
    last_refit: RefitStats | None = None

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.threads: set[int] = set()
        self.error: Exception | None = None
        self.loaded: dict[str, torch.Tensor] = {}

    def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Completion]:
        self._note("generate")
        return [
            Completion(r.prompt_id, r.sample_id, Source.LEARNER, ids(r.prompt_token_ids), lps([-0.5, -1.5]), "stop", 3)
            for r in requests
        ]

    def weight_hash(self) -> str:
        self._note("weight_hash")
        return "ab"

    def update_weights(self, buckets: Iterable[Bucket], version: int) -> None:
        self._note(f"begin {version}")
        for bucket in buckets:
            self._note(f"bucket {','.join(bucket)}")
            self.loaded.update({name: tensor.clone() for name, tensor in bucket.items()})
        self._note("end")

    def _note(self, call: str) -> None:
        self.calls.append(call)
        self.threads.add(threading.get_ident())
        if self.error:
            raise self.error


class Served:
    """A scripted engine behind a real server in threads of this process."""

    def __init__(self) -> None:
        self.engine = ScriptedEngine()
        self.host = EngineHost(self.engine, rows_of_part=2)
        self.server = EngineServer(self.host, TOKEN)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.thread = threading.Thread(target=self.host.run)
        self.thread.start()

    def close(self) -> None:
        self.host.stop()
        self.thread.join(20)
        self.server.shutdown()
        self.server.server_close()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=600)

    def ask(self, path: str, body: bytes = b"", authorization: str | None = f"Bearer {TOKEN}") -> tuple[int, bytes]:
        connection = self.connect()
        connection.request("POST", path, body, {} if authorization is None else {"Authorization": authorization})
        response = connection.getresponse()
        result = response.status, response.read()
        connection.close()
        return result

    def raw(self, *lines: str, body: bytes = b"") -> socket.socket:
        """A connection on which these header lines and this body have been sent."""
        peer = socket.create_connection(("127.0.0.1", self.server.port), timeout=600)
        peer.sendall("\r\n".join(lines).encode("latin-1") + body)
        return peer

    def generates(self) -> bool:
        status, body = self.ask("/generate", REQUEST)
        return status == 200 and [c.token_ids.tolist() for _, c in unpack_completions(messages(body)[0][1])] == [[3, 4]]


@pytest.fixture
def served() -> Iterator[Served]:
    started = Served()
    yield started
    started.close()


def status_line(peer: socket.socket) -> str:
    with peer, peer.makefile("rb") as file:
        return file.readline().decode().strip()


def authorized(length: str) -> tuple[str, ...]:
    return ("POST /generate HTTP/1.1", f"Authorization: Bearer {TOKEN}", f"Content-Length: {length}", "", "")


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", TOKEN, f"bearer {TOKEN}", f"Bearer {TOKEN[:-1]}b", f"Bearer {TOKEN}0", "Bearer é"],
)
@pytest.mark.parametrize("path", ["/generate", "/update/begin", "/close", "/sleep", "/nothing"])
def test_without_the_token_nothing_is_done(served: Served, path: str, authorization: str | None) -> None:
    assert served.ask(path, REQUEST, authorization) == (401, b"")
    assert served.engine.calls == []
    assert served.generates()


def test_without_the_token_no_body_is_read(served: Served) -> None:
    peer = served.raw("POST /generate HTTP/1.1", "Authorization: Bearer x", "Content-Length: 1000000", "", "")
    assert status_line(peer).startswith("HTTP/1.1 401")


def test_it_listens_on_the_loopback_only(served: Served) -> None:
    assert served.server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("length", "status"),
    [("-5", 411), ("+5", 411), ("5x", 411), ("", 411), (str(LARGEST_BODY + 1), 413), ("9" * 5000, 413)],
)
def test_lengths_that_are_refused(served: Served, length: str, status: int) -> None:
    assert status_line(served.raw(*authorized(length))).startswith(f"HTTP/1.1 {status}")
    assert served.generates()


def test_headers_are_limited(served: Served) -> None:
    many = [f"X-{index}: 0" for index in range(200)]
    assert status_line(served.raw("POST /generate HTTP/1.1", *many, "", "")).startswith("HTTP/1.1 431")
    assert status_line(served.raw("POST /" + "x" * 70_000 + " HTTP/1.1", "", "")).startswith("HTTP/1.1 414")


def test_slow_and_lying_peers_hold_up_nobody(served: Served) -> None:
    peers = [
        served.raw("POST /generate HT"),
        served.raw("POST /generate HTTP/1.1", "Authorization: "),
        served.raw(*authorized("1000"), body=b"only this"),
        served.raw("POST /generate HTTP/1.1", "Content-Length: 1000", "", ""),
    ]
    assert served.generates()
    for peer in peers:
        peer.close()
    assert served.generates()
    assert served.engine.calls == ["generate"] * 2


def test_silent_peers_are_dropped(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "SLOW_S", 0.1)
    monkeypatch.setattr(endpoints._Handler, "timeout", 0.1)
    for peer in (served.raw("POST /gen"), served.raw(*authorized("1000"), body=b"only this")):
        assert peer.recv(100) == b""
        peer.close()


def test_a_known_peer_may_be_silent(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "SLOW_S", 0.1)
    monkeypatch.setattr(endpoints._Handler, "timeout", 0.1)
    connection = served.connect()
    for _ in range(2):
        connection.request("POST", "/weight_hash", pack({}), {"Authorization": f"Bearer {TOKEN}"})
        assert connection.getresponse().read()
        sockets = {connection.sock}
        threading.Event().wait(0.5)
    assert sockets == {connection.sock}  # kept alive all the time
    connection.close()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/nothing", pack({}), 404),
        ("/generate/../close", pack({}), 404),
        ("/generate", b"", 400),
        ("/generate", b"garbage", 400),
        ("/generate", pack({}), 400),
        ("/update/begin", pack({}), 400),
        ("/update/begin", pack({"version": "1"}), 400),
        ("/update/bucket", pack({"layout": {}}), 400),
        ("/update/bucket", pack({"layout": {"slot": 0, "pid": 1, "fd": 9999, "size": 1, "tensors": []}}), 400),
    ],
)
def test_messages_that_make_no_sense(served: Served, path: str, body: bytes, status: int) -> None:
    assert served.ask(path, body)[0] == status
    assert served.engine.calls == []
    assert served.generates()


def test_errors_of_the_engine_are_told(served: Served, capfd: pytest.CaptureFixture[str]) -> None:
    served.engine.error = ValueError("too long")
    assert unpack(served.ask("/generate", REQUEST)[1])[0] == {"kind": "value", "error": "too long"}
    served.engine.error = RuntimeError("no memory")
    status, body = served.ask("/weight_hash", pack({}))
    assert status == 500
    assert unpack(body)[0] == {"kind": "engine", "error": "RuntimeError: no memory"}
    assert "Traceback" in capfd.readouterr().err
    served.engine.error = None
    assert served.generates()


def test_all_calls_come_from_one_thread(served: Served) -> None:
    assert served.generates()
    assert unpack(served.ask("/weight_hash", pack({}))[1])[0] == {"hash": "ab"}
    assert served.engine.threads == {served.thread.ident}


@pytest.fixture
def segments() -> Iterator[tuple[Segment, Segment]]:
    both = Segment(0), Segment(1)
    yield both
    for segment in both:
        segment.close()


def layout(segment: Segment, **tensors: float) -> bytes:
    return pack({"layout": segment.write({name: torch.tensor([value]) for name, value in tensors.items()})})


class TestUpdate:
    """A weight update comes as several requests."""

    def test_buckets_in_turn(self, served: Served, segments: tuple[Segment, Segment]) -> None:
        assert served.ask("/update/begin", pack({"version": 4}))[0] == 200
        assert served.ask("/update/bucket", layout(segments[0], a=1.0))[0] == 200
        assert served.ask("/update/bucket", layout(segments[1], b=2.0, c=3.0))[0] == 200
        assert served.ask("/update/end", pack({}))[0] == 200
        assert served.engine.calls == ["begin 4", "bucket a", "bucket b,c", "end"]
        assert {name: tensor.item() for name, tensor in served.engine.loaded.items()} == {"a": 1, "b": 2, "c": 3}

    @pytest.mark.parametrize("path", ["/update/bucket", "/update/end"])
    def test_nothing_without_a_begin(self, served: Served, segments: tuple[Segment, Segment], path: str) -> None:
        status, body = served.ask(path, layout(segments[0], a=1.0))
        assert status == 500
        assert "begin one" in unpack(body)[0]["error"]

    def test_another_call_gives_it_up(self, served: Served, segments: tuple[Segment, Segment]) -> None:
        served.ask("/update/begin", pack({"version": 4}))
        served.ask("/update/bucket", layout(segments[0], a=1.0))
        assert served.generates()
        assert served.engine.calls == ["begin 4", "bucket a", "generate"]
        assert served.ask("/update/end", pack({}))[0] == 500

    def test_another_begin_gives_it_up(self, served: Served) -> None:
        for version in (4, 5):
            served.ask("/update/begin", pack({"version": version}))
        assert served.ask("/update/end", pack({}))[0] == 200
        assert [call for call in served.engine.calls if "begin 4" not in call] == ["begin 5", "end"]

    def test_an_error_comes_with_its_bucket(self, served: Served, segments: tuple[Segment, Segment]) -> None:
        served.ask("/update/begin", pack({"version": 4}))
        while not served.engine.calls:
            threading.Event().wait(0.01)
        served.engine.error = ValueError("no tensor a")
        status, body = served.ask("/update/bucket", layout(segments[0], a=1.0))
        assert (status, unpack(body)[0]["error"]) == (500, "no tensor a")
        served.engine.error = None
        assert served.ask("/update/bucket", layout(segments[0], a=1.0))[0] == 500
        assert served.generates()


def test_a_frozen_engine_cannot_be_updated() -> None:
    served = Served()
    served.host.engine = AbsentEngine()
    assert served.ask("/update/begin", pack({"version": 1}))[0] == 500
    assert served.engine.calls == []
    served.close()


def test_close_ends_the_engine_s_thread() -> None:
    served = Served()
    assert served.ask("/close", pack({}))[0] == 200
    served.thread.join(20)
    assert not served.thread.is_alive()
    served.close()
