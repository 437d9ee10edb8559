"""A small Hugging Face hub on the loopback, with the part of its HTTP interface that downloads need."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Files = Mapping[str, bytes]


@dataclass
class Repository:
    """Commits with their files, and branches and tags. `token`: who sends no such one is told that there is nothing."""

    commits: dict[str, Files]
    refs: dict[str, str]
    token: str | None = None


@dataclass
class StandIn:
    """What the hub holds and how it misbehaves. Repositories are named `models/owner/name` or `datasets/owner/name`."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, authorization
    cut_after: int | None = None  # bytes of a file after which the line goes dead
    stalls: threading.Event | None = None  # set when so much of a file has been sent; then nothing more comes
    headers: dict[str, str] = field(default_factory=dict)  # in place of the right ones, in answers about files
    status: int | None = None  # of every answer
    code: str = ""  # the hub's name of a fault, with `status`
    silent_s: float = 0.0  # before it answers
    body: bytes | None = None  # of every answer on what a repository lists
    port: int = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, name: str, *commits: Files, token: str | None = None) -> list[str]:
        """A repository with these commits, the last one of them `main`. Returns their hashes."""
        hashes = [hashlib.sha1(f"{name} {number}".encode()).hexdigest() for number in range(len(commits))]
        self.repositories[name] = Repository(dict(zip(hashes, commits, strict=True)), {"main": hashes[-1]}, token)
        return hashes

    def fetched(self) -> list[str]:
        """Names of the files whose bytes were asked for."""
        paths = [path for method, path, _ in self.asked if method == "GET" and "/api/" not in path]
        return [re.sub(r"^.*/(resolve|stored)/[^/]+/", "", path) for path in paths]


@contextmanager
def serving(hub: StandIn) -> Iterator[StandIn]:
    """Serves `hub` on a port of its own."""

    class Handler(_Handler):
        stand_in = hub

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    stand_in: StandIn

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.stand_in.asked.append((self.command, path, self.headers.get("authorization")))
        if self.stand_in.silent_s:
            time.sleep(self.stand_in.silent_s)
        if self.stand_in.status is not None:
            return self._send(self.stand_in.status, b"", {"X-Error-Code": self.stand_in.code})
        listing = re.fullmatch(r"/api/((?:models|datasets)/[^/]+/[^/]+)/revision/(.+)", path)
        file = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/(resolve|stored)/([^/]+)/(.+)", path)
        if listing:
            return self._list(listing[1], listing[2])
        if file:
            return self._file(f"{file[1] or 'models/'}{file[2]}", file[4], file[5], is_stored=file[3] == "stored")
        return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

    def _found(self, name: str, revision: str) -> tuple[str, Files] | None:
        repository = self.stand_in.repositories.get(name)
        if repository is None or repository.token not in (None, self._token()):
            self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
            return None
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return None
        return commit, repository.commits[commit]

    def _token(self) -> str:
        return (self.headers.get("authorization") or "").removeprefix("Bearer ")

    def _list(self, name: str, revision: str) -> None:
        found = self._found(name, revision)
        if found is not None:
            commit, files = found
            siblings = [{"rfilename": file, "size": len(content)} for file, content in files.items()]
            content = json.dumps({"id": name.partition("/")[2], "sha": commit, "siblings": siblings}).encode()
            self._send(200, content if self.stand_in.body is None else self.stand_in.body)

    def _file(self, name: str, revision: str, file: str, *, is_stored: bool) -> None:
        """Weights are elsewhere, as on the hub: under another address, which must not get the token."""
        if is_stored:
            return self._bytes(self.stand_in.repositories[name].commits[revision][file], {})
        found = self._found(name, revision)
        if found is None:
            return None
        commit, files = found
        if file not in files:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        digest = hashlib.sha1(files[file]).hexdigest()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{digest}"'} | self.stand_in.headers
        if file.endswith(".safetensors"):
            kind = "datasets/" if name.startswith("datasets/") else ""
            elsewhere = f"http://localhost:{self.stand_in.port}/{kind}{name.partition('/')[2]}/stored/{commit}/{file}"
            headers |= {"Location": elsewhere, "X-Linked-Size": str(len(files[file])), "X-Linked-Etag": headers["ETag"]}
            return self._send(302, b"", headers)
        return self._bytes(files[file], headers)

    def _bytes(self, content: bytes, headers: dict[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        start = int(wanted[1]) if wanted else 0
        if wanted:
            headers = headers | {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        self._send(206 if wanted else 200, content[start:], headers)

    def _send(self, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.stand_in.cut_after
        if cut is not None and len(content) > cut and "/api/" not in self.path:
            self.wfile.write(content[:cut])
            if self.stand_in.stalls is not None:
                self.stand_in.stalls.set()
                self.rfile.read(1)  # until the other side is gone
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(content)
