"""A real headless browser without a network: what a page requests, what it complains of, and how it looks.

Chromium is driven by its DevTools protocol over two pipes: messages are JSON, each ended by a zero byte.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND")
HANGS_AFTER = 600  # seconds
FAULTS = ("Network.loadingFailed", "Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")


@dataclass
class Seen:
    """What a page has done until it was loaded. `requests` are all addresses but its own."""

    requests: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class Browser:
    """One tab of a running browser. See `browsing`."""

    def __init__(self, write_to: int, read_from: int) -> None:
        self._out, self._in = os.fdopen(write_to, "wb", buffering=0), os.fdopen(read_from, "rb")
        self._number = 0
        self._session: str | None = None
        self._events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Network", "Log", "Runtime", "Page"):
            self.call(f"{domain}.enable")
        self.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)

    def call(self, method: str, **params: Any) -> Any:
        """The answer to a command. Events that come before it are kept."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        while True:
            found = self._read()
            if found.get("id") == self._number:
                assert "error" not in found, found
                return found["result"]
            self._events.append(found)

    def open(self, address: str, width: int, *, dark: bool = False) -> Seen:
        """Loads a page in a window of this width, and waits until everything that it asks for has come or failed."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self._events.clear()
        self.call("Page.navigate", url=address)
        while not any(event.get("method") == "Page.loadEventFired" for event in self._events):
            self._events.append(self._read())
        self.evaluate("new Promise(done => setTimeout(done, 100))")  # what scripts ask for after the load
        seen = Seen()
        for event in self._events:
            if event.get("method") == "Network.requestWillBeSent":
                seen.requests.append(event["params"]["request"]["url"])
            if event.get("method") in FAULTS:
                seen.faults.append(json.dumps(event["params"]))
        seen.requests.remove(address)
        return seen

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page; a promise is awaited."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def screenshot(self, path: Path, *, top: int = 0, height: int = 900) -> None:
        """A PNG of a part of the page, over its whole width."""
        clip = {"x": 0, "y": top, "width": self.evaluate("innerWidth"), "height": height, "scale": 1}
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _read(self) -> dict[str, Any]:
        text = bytearray()
        while (letter := self._in.read(1)) != b"\0":
            assert letter, "the browser has ended"
            text += letter
        found: dict[str, Any] = json.loads(text)
        return found


@contextmanager
def browsing(program: str, profile: Path) -> Iterator[Browser]:
    """A browser that ends with the block. `profile` is an empty folder of its own."""
    (read_here, write_there), (read_there, write_here) = os.pipe(), os.pipe()
    command = shlex.join([program, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe"])
    process = subprocess.Popen(
        ["bash", "-c", f"exec {command} 3<&{read_there} 4>&{write_there}"],
        pass_fds=(read_there, write_there),
        stderr=subprocess.DEVNULL,
    )
    os.close(read_there)
    os.close(write_there)
    end = threading.Timer(HANGS_AFTER, process.kill)
    end.start()
    try:
        yield Browser(write_here, read_here)
    finally:
        end.cancel()
        process.terminate()
        process.wait(HANGS_AFTER)
