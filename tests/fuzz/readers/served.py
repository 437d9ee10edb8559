"""What engine servers and their trainer take from each other: HTTP, message bodies, layouts of shared memory."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from s2l_nemo.engines.protocol import EngineError
from s2l_nemo.engines.served.connection import Connection
from s2l_nemo.engines.served.endpoints import EngineServer, _Handler
from s2l_nemo.engines.served.host import EngineHost
from s2l_nemo.engines.served.shared_memory import Segment, SegmentReader
from s2l_nemo.engines.served.wire import WireError, pack, pack_completions, pack_requests, unpack_completions
from s2l_nemo.types import Completion, SampleRequest, SamplingParams
from tests.engines.served.test_endpoints import ScriptedEngine
from tests.fuzz.mutate import damage, json_damage, message_damage, mixed
from tests.fuzz.reader import Harness, Reader

TOKEN = "a1" * 32
REQUESTS = [SampleRequest(1, 2, (3, 4), 5), SampleRequest(1, 3, (3, 4), 6), SampleRequest(2, 0, (9,), 7)]
PARAMS = SamplingParams(2, (7,), temperature=0.5, top_p=0.9, top_k=5)
COMPLETIONS = [
    Completion(1, sample, 0, np.array([5, 7], np.int32), np.array([-0.5, -1], np.float32), "stop", 3)
    for sample in range(3)
]
BODIES = (pack_requests(REQUESTS, PARAMS), pack({"version": 1}), pack({}))


class StrictEngine(ScriptedEngine):
    """Raises AssertionError for requests that no engine could be asked."""

    def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Completion]:
        numbers = (params.temperature, params.top_p, params.presence_penalty)
        assert all(type(number) in (int, float) and np.isfinite(number) for number in numbers)
        assert params.temperature >= 0
        assert 0 < params.top_p <= 1
        assert type(params.max_new_tokens) is int
        assert params.max_new_tokens > 0
        assert all(type(token) is int for token in (params.top_k, *params.stop_token_ids))
        assert all(type(token) is int and token >= 0 for one in requests for token in one.prompt_token_ids)
        return [replace(COMPLETIONS[0], prompt_id=one.prompt_id, sample_id=one.sample_id) for one in requests]


def server() -> EngineServer:
    host = EngineHost(StrictEngine(), rows_of_part=2)
    threading.Thread(target=host.run, daemon=True).start()
    return EngineServer(host, TOKEN)


def bodies(path: str) -> Callable[[Path], Harness]:
    def prepare(_folder: Path) -> Harness:
        ours = server()

        def read(content: bytes) -> None:
            if path == "/update/end":
                ours.answer("/update/begin", BODIES[1])
            status, reply = ours.answer(path, content)
            told = reply if isinstance(reply, bytes) else b"".join(reply)
            assert status in (200, 400), (status, told)
            if status == 400:
                raise WireError("refused, as it should be")

        seeds = {"/generate": BODIES[:1], "/update/begin": BODIES[1:2]}.get(path, BODIES[2:])
        return Harness(seeds, read, None, mixed(damage, message_damage), (WireError,))

    return prepare


class QuietHandler(_Handler):
    """One that speaks over a pair of sockets, and that ends with its input."""

    disable_nagle_algorithm = False


def http(_folder: Path) -> Harness:
    """Whole requests, with their headers."""
    ours = server()

    def request(path: str, body: bytes, *more: str) -> bytes:
        lines = [
            f"POST {path} HTTP/1.1",
            f"Authorization: Bearer {TOKEN}",
            f"Content-Length: {len(body)}",
            *more,
            "",
            "",
        ]
        return "\r\n".join(lines).encode() + body

    def read(content: bytes) -> None:
        peer, own = socket.socketpair()
        with peer, own:
            peer.sendall(content)
            peer.shutdown(socket.SHUT_WR)
            QuietHandler(own, ("127.0.0.1", 1), ours)
            own.close()
            with peer.makefile("rb") as file:
                reply = file.read()
        codes = {int(code) for code in re.findall(rb"^HTTP/1\.[01] (\d+)", reply, re.MULTILINE)}
        assert all(code < 500 or code in (501, 505) for code in codes), reply[:300]  # another method, another HTTP
        if codes - {200}:
            raise WireError(f"refused with {codes}")

    seeds = [
        request("/generate", BODIES[0]),
        request("/update/begin", BODIES[1], "X-A: b"),
        request("/weight_hash", BODIES[2]),
    ]
    return Harness(seeds, read, None, damage, (WireError,))


def replies(_folder: Path) -> Harness:
    """What the trainer takes from a server."""
    connection = object.__new__(Connection)
    connection._name = "explorer engine"
    response: Any = SimpleNamespace(status=200, reason="OK")

    def read(content: bytes) -> None:
        _, arrays = connection._opened("/generate", response, content)
        unpack_completions(arrays)

    seeds = [pack_completions(list(enumerate(COMPLETIONS))), pack_completions([])]
    return Harness(seeds, read, None, mixed(damage, message_damage), (EngineError, ValueError))


def shared_memory(_folder: Path) -> Harness:
    """The layout of a bucket, for memory that is there."""
    segment, reader = Segment(0), SegmentReader()
    layout = segment.write({"a": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16), "c": torch.zeros(0)})

    def read(content: bytes) -> None:
        try:
            layout = json.loads(content)
        except RecursionError:
            raise ValueError("an endpoint refuses it: body-update-end") from None
        if not isinstance(layout, dict):
            raise ValueError("an endpoint takes an object only")
        for tensor in reader.read(layout).values():
            tensor.clone()
        assert segment is not None  # or its memory would go

    return Harness([json.dumps(layout).encode()], read, None, json_damage, (WireError, ValueError, OSError))


READERS = (
    Reader("http", ("engines.served.endpoints",), http),
    *(
        Reader(f"body-{path[1:].replace('/', '-')}", ("engines.served.wire", "engines.served.endpoints"), bodies(path))
        for path in ("/generate", "/update/begin", "/update/end", "/weight_hash")
    ),
    Reader("replies", ("engines.served.connection", "engines.served.client"), replies),
    Reader("shared-memory", ("engines.served.shared_memory",), shared_memory),
)
