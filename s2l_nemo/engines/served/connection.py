"""One server process and the HTTP connection to it, with deadlines."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse

from s2l_nemo.engines.protocol import EngineDied, EngineError, EngineHung
from s2l_nemo.engines.served.process import Launch, ServerProcess
from s2l_nemo.engines.served.wire import FRAME_BYTES, Arrays, Header, pack, unpack

_CLOSE_S = 30.0  # how long an engine may take to shut down before it is killed


class Connection:
    """A server process from its start to its end.

    Each call has a limit of `seconds`. `deadline` is the configuration key that the limit comes from, for messages.
    """

    def __init__(self, launch: Launch) -> None:
        """Raises UserError if the server does not start."""
        self._name = launch.settings.name
        self._process = ServerProcess(launch)
        self._http = HTTPConnection("127.0.0.1", self._process.port)
        self._unread = False  # a reply is due
        self._ended = False

    def ask(self, path: str, body: bytes, seconds: float, deadline: str) -> tuple[Header, Arrays]:
        """`send` and `reply` in one."""
        self.send(path, body, seconds, deadline)
        return self.reply(path, seconds, deadline)

    def send(self, path: str, body: bytes, seconds: float, deadline: str) -> None:
        """Sends a request and returns before it is answered. Raises EngineDied or EngineHung."""
        with self._watched(path, seconds, deadline):
            if self._unread:  # its caller was cut short by an error of its own
                self._http.getresponse().read()
            self._http.request("POST", path, body, {"Authorization": f"Bearer {self._process.token}"})
            self._unread = True

    def reply(self, path: str, seconds: float, deadline: str) -> tuple[Header, Arrays]:
        """The answer to the last `send`.

        Raises EngineDied or EngineHung. An error of the engine is raised as ValueError if it was one, else as
        EngineError.
        """
        with self._watched(path, seconds, deadline):
            response = self._http.getresponse()
            body = response.read()
            self._unread = False
        return self._opened(path, response, body)

    def replies(self, path: str, seconds: float, deadline: str) -> Iterator[Arrays]:
        """The answer to the last `send` in parts, as they come. Each part has the limit, so a long answer has none.

        Raises what `reply` raises. To be read to its end.
        """
        with self._watched(path, seconds, deadline):
            response = self._http.getresponse()
        if response.status != HTTPStatus.OK:
            with self._watched(path, seconds, deadline):
                body = response.read()
            self._unread = False
            self._opened(path, response, body)
        while True:
            with self._watched(path, seconds, deadline):
                length = response.read(FRAME_BYTES)
                body = response.read(int.from_bytes(length, "little"))
            if not length:
                self._unread = False
                return
            try:
                _, arrays = self._opened(path, response, body)
            except (EngineError, ValueError):
                with self._watched(path, seconds, deadline):
                    response.read()  # nothing but its end
                self._unread = False
                raise
            yield arrays

    def _opened(self, path: str, response: HTTPResponse, body: bytes) -> tuple[Header, Arrays]:
        """The message, unless it tells of an error."""
        if not body:
            raise EngineError(f"{self._name} refused {path}: {response.status} {response.reason}")
        header, arrays = unpack(body)
        if "error" not in header:
            return header, arrays
        if header.get("kind") == "value":
            raise ValueError(header["error"])
        raise EngineError(f"{self._name}: {header['error']}")

    def last_words(self) -> str:
        """See `ServerProcess.last_words`."""
        return self._process.last_words()

    def close(self) -> None:
        """Lets the engine shut down. Kills it if that takes too long."""
        if not self._ended:
            with contextlib.suppress(EngineDied, EngineError):
                self.ask("/close", pack({}), _CLOSE_S, "shutting down")
                self._process.wait(_CLOSE_S)
        self.end()

    def end(self) -> None:
        """Kills the server. Nothing of it is left."""
        self._ended = True
        self._process.end()  # first: it wakes a thread that reads
        self._http.close()

    @contextlib.contextmanager
    def _watched(self, path: str, seconds: float, deadline: str) -> Iterator[None]:
        """Ends the server if it does not answer in `seconds` or breaks the connection, and raises the reason."""
        if self._ended:
            raise EngineDied(f"{self._name} has ended")
        self._http.timeout = seconds
        if self._http.sock is not None:
            self._http.sock.settimeout(seconds)
        try:
            yield
        except TimeoutError:
            self.end()
            raise EngineHung(f"{self._name} did not answer {path} within {deadline}={seconds:g} s") from None
        except (OSError, HTTPException):
            self.end()
            raise EngineDied(f"{self._name} died during {path}; {self.last_words()}") from None
