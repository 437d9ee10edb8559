"""What an engine server answers over HTTP: POST with the token, on the loopback, in the messages of `wire`.

Paths: /generate, /weight_hash, /update/begin, /update/bucket, /update/end, /sleep, /resume, /close. Without the token
nothing is read but the headers, and nothing is done. The status is 200 with the reply, 400 for a message that makes no
sense, or 500 for an error of the engine; 400 and 500 come with the header {"error", "kind"}. 401, 404, 411 and 413 have
no body.

/generate replies with several messages, each behind its length in eight bytes: completions as soon as they are
finished. An error that comes between them is the last message, and has the header of a 500.
"""

from __future__ import annotations

import hmac
import itertools
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from s2l_nemo.engines.served.host import EngineHost, Finished
from s2l_nemo.engines.served.shared_memory import SegmentReader
from s2l_nemo.engines.served.wire import (
    FRAME_BYTES,
    Arrays,
    Header,
    WireError,
    pack,
    pack_completions,
    unpack,
    unpack_requests,
)

LARGEST_BODY = 2**30  # bytes
SLOW_S = 20.0  # how long a peer may be silent that has not shown the token, or that owes the rest of a message


class EngineServer(ThreadingHTTPServer):
    """Answers for a host. A thread for each connection, so a slow or lying peer holds up nobody else."""

    daemon_threads = True

    def __init__(self, host: EngineHost, token: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port = int(self.server_address[1])
        self.authorization = f"Bearer {token}".encode()
        self._host = host
        self._segments = SegmentReader()
        self.endpoints: dict[str, Callable[[Header, Arrays], bytes | Iterator[bytes]]] = {
            "/generate": self._generate,
            "/weight_hash": self._weight_hash,
            "/update/begin": self._begin_update,
            "/update/bucket": self._add_bucket,
            "/update/end": self._finish_update,
            "/sleep": lambda header, arrays: self._call(host.engine.sleep),
            "/resume": lambda header, arrays: self._call(host.engine.resume),
            "/close": lambda header, arrays: self._call(host.engine.close),
        }

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def answer(self, path: str, body: bytes) -> tuple[HTTPStatus, bytes | Iterator[bytes]]:
        """Status and body of the reply to an authorised request; the messages of a body that is sent in parts."""
        if path not in self.endpoints:
            return HTTPStatus.NOT_FOUND, b""
        try:
            return HTTPStatus.OK, self.endpoints[path](*unpack(body))
        except WireError as error:
            return HTTPStatus.BAD_REQUEST, pack({"kind": "message", "error": str(error)})
        except Exception as error:  # the engine's; it goes on, and the trainer decides
            return HTTPStatus.INTERNAL_SERVER_ERROR, _told(error)

    def replied(self, path: str) -> None:
        """Called once a reply has been sent."""
        if path == "/close":
            self._host.stop()

    def _generate(self, header: Header, arrays: Arrays) -> Iterator[bytes]:
        requests, params = unpack_requests(header, arrays)
        parts = self._host.generate(requests, params)
        first = next(parts, [])  # its error has a status of its own
        return _messages(itertools.chain([first], parts))

    def _weight_hash(self, header: Header, arrays: Arrays) -> bytes:
        return pack({"hash": self._host.call(self._host.engine.weight_hash)})

    def _begin_update(self, header: Header, arrays: Arrays) -> bytes:
        self._host.begin_update(_field(header, "version", int))
        return pack({})

    def _add_bucket(self, header: Header, arrays: Arrays) -> bytes:
        layout = _field(header, "layout", dict)
        try:
            bucket = self._segments.read(layout)
        except (ValueError, OSError) as error:
            raise WireError(f"no bucket of weights: {error!r:.300}") from None
        self._host.add_bucket(bucket)
        return pack({})

    def _finish_update(self, header: Header, arrays: Arrays) -> bytes:
        self._host.finish_update()
        return pack({})

    def _call(self, method: Callable[[], None]) -> bytes:
        self._host.call(method)
        return pack({})


def _messages(parts: Iterable[list[Finished]]) -> Iterator[bytes]:
    try:
        for part in parts:
            yield pack_completions(part)
    except Exception as error:  # as in `answer`
        yield _told(error)


def _told(error: Exception) -> bytes:
    """What the trainer is told of an error that the engine raised."""
    traceback.print_exception(error)
    kind = "value" if isinstance(error, ValueError) else "engine"
    return pack({"kind": kind, "error": str(error) if kind == "value" else f"{type(error).__name__}: {error}"})


def _field(header: Header, name: str, kind: type) -> Any:
    if type(header.get(name)) is not kind:
        raise WireError(f"{name}={header.get(name)!r:.80} must be of type {kind.__name__}")
    return header[name]


class _Handler(BaseHTTPRequestHandler):
    """One connection. The standard library bounds a header to 100 lines of 64 KiB."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each reply waits for the peer's delayed acknowledgement of its headers
    timeout = SLOW_S
    server: EngineServer

    def do_POST(self) -> None:
        shown = self.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(shown, self.server.authorization):
            self._refuse(HTTPStatus.UNAUTHORIZED)
            return
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            self._refuse(HTTPStatus.LENGTH_REQUIRED)
            return
        if len(length) > len(str(LARGEST_BODY)) or int(length) > LARGEST_BODY:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        self.connection.settimeout(SLOW_S)
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True  # the peer is gone
            return
        self.connection.settimeout(None)  # the trainer may be silent for as long as it trains
        status, reply = self.server.answer(self.path, body)
        if isinstance(reply, bytes):
            self._reply(status, reply)
        else:
            self._reply_in_parts(reply)
        self.server.replied(self.path)

    def _refuse(self, status: HTTPStatus) -> None:
        """Replies without having read the body, so nothing else can come on this connection."""
        self.close_connection = True
        self._reply(status, b"")

    def _reply(self, status: HTTPStatus, body: bytes) -> None:
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _reply_in_parts(self, messages: Iterator[bytes]) -> None:
        self.send_response_only(HTTPStatus.OK)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for message in messages:
            framed = len(message).to_bytes(FRAME_BYTES, "little") + message
            self.wfile.write(b"%x\r\n%b\r\n" % (len(framed), framed))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: a line for each request would bury what the engine says."""
