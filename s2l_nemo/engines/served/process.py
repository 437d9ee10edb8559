"""Starting and ending an engine server from the trainer's process."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from s2l_nemo.engines.served.environment import server_environment, writable_folders
from s2l_nemo.engines.settings import EngineSettings
from s2l_nemo.errors import UserError

_END_S = 5.0  # how long the supervisor may take to end everything
_TAIL_LINES = 3
_TAIL_CHARACTERS = 500


@dataclass(frozen=True)
class Launch:
    """How to start one engine server."""

    maker: str  # name of the EngineMaker that the server imports, `package.module:name`
    settings: EngineSettings
    python: str  # the server's interpreter
    devices: str | None  # CUDA_VISIBLE_DEVICES; None: the trainer's
    log: Path  # what the server prints is appended to it
    startup_s: float


class ServerProcess:
    """A server that listens on `port` for requests with `token`. Nothing of it is left after `end`."""

    def __init__(self, launch: Launch) -> None:
        """Starts the process and waits until its model is loaded.

        Raises UserError, with the reason or the last lines of its log, if it does not start.
        """
        self.token = secrets.token_hex(32)
        self._ending = threading.Lock()  # a call in one thread may find the process lost while another closes it
        self._log = launch.log
        self._log_start = launch.log.stat().st_size if launch.log.exists() else 0
        launch.log.parent.mkdir(parents=True, exist_ok=True)
        environment = server_environment(os.environ, launch.python, launch.devices)
        environment |= writable_folders(os.environ, os.getuid(), Path(tempfile.gettempdir()))
        self._folder = tempfile.mkdtemp(prefix="s2l")  # short: the names of sockets are bounded
        with launch.log.open("ab") as log:
            try:
                self._process = subprocess.Popen(
                    [launch.python, "-m", "s2l_nemo.engines.served.server", self._folder],
                    stdin=subprocess.PIPE,  # stays open: its end tells the server that the trainer is gone
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=environment,
                    start_new_session=True,  # Ctrl-C is for the trainer
                )
            except OSError as error:
                os.rmdir(self._folder)
                raise UserError(
                    f"engine.python={launch.python} cannot be run ({error.strerror}): give a Python interpreter"
                ) from None
        try:
            self.port = self._start(launch)
        except BaseException:
            self.end()
            raise

    def _start(self, launch: Launch) -> int:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, which its answer tells
            message = {"maker": launch.maker, "settings": launch.settings.to_json(), "token": self.token}
            stdin.write(json.dumps(message).encode() + b"\n")
            stdin.flush()
        name = launch.settings.name
        line = _first_line(stdout.fileno(), time.monotonic() + launch.startup_s)
        stdout.close()
        if line is None:
            raise UserError(f"{name} did not start within engine.startup_s={launch.startup_s:g} s; {self.last_words()}")
        try:
            answer = json.loads(line or b'{"error": "it ended"}')
        except ValueError:
            answer = {"error": f"engine.python={launch.python} wrote {line[:80]!r}"}
        if "error" in answer:
            raise UserError(f"{name} did not start: {answer['error']}; {self.last_words()}")
        return int(answer["port"])

    def last_words(self) -> str:
        """The log's path and its last lines since the start, as one line."""
        with self._log.open("rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - 2**16))
            lines = log.read().decode(errors="replace").split("\n")
        lines = [" ".join(line.split()) for line in lines if line.strip()]
        tail = " | ".join(lines[-_TAIL_LINES:])[-_TAIL_CHARACTERS:] or "nothing"
        return f"the log {self._log} ends with: {tail}"

    def wait(self, seconds: float) -> bool:
        """Whether the process has ended by itself, with all that it started."""
        deadline = time.monotonic() + seconds
        while os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def end(self) -> None:
        """Ends the supervisor, which ends the engine. Kills the whole session if it does not. Waits for the end."""
        with self._ending:
            if self._process.returncode is None:
                self._end()

    def _end(self) -> None:
        os.kill(self._process.pid, signal.SIGTERM)
        os.kill(self._process.pid, signal.SIGCONT)  # or a supervisor that was stopped would not notice
        self.wait(_END_S)
        os.killpg(self._process.pid, signal.SIGKILL)  # until it is reaped, its number cannot be another group's
        self._process.wait()
        deadline = time.monotonic() + _END_S
        with contextlib.suppress(ProcessLookupError):  # nobody is left in the group
            while time.monotonic() < deadline:
                os.killpg(self._process.pid, 0)
                time.sleep(0.01)
        shutil.rmtree(self._folder, ignore_errors=True)  # a supervisor that was killed has left it
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def _first_line(fd: int, deadline: float) -> bytes | None:
    """What comes up to the first line break, or up to the end. None if neither comes in time."""
    line = b""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    while not line.endswith(b"\n"):
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return None
        part = os.read(fd, 4096)
        if not part:
            break
        line += part
    return line
