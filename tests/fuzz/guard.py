"""Notes what a reader does to the outside: files that it writes or reads, processes, sockets, code. By audit events.

Files that C++ opens (pyarrow, tokenizers) raise no event; they get the path of the input and no other.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = frozenset({
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
    "os.utime", "os.mkfifo", "os.mknod",
})  # fmt: skip
_NEVER = frozenset({
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.kill", "subprocess.Popen",
    "pty.spawn",
    "socket.connect", "socket.bind", "socket.sendto", "pickle.find_class",
})  # fmt: skip
_MEMORY = "/memfd:s2l_nemo_refit"  # of an engine's weights, which its reader opens to map it
_SYSTEM = ("/proc/", "/sys/", "/dev/", "/usr/", "/lib", "/etc/localtime", "/etc/mime.types")


class Guard:
    """One of a process, because an audit hook stays. `watch` says when to look, and gives what was seen."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self._inside = os.path.realpath(folder) + "/"
        libraries = {
            os.path.realpath(path) for path in (*sys.path, sys.prefix, sys.base_prefix, str(repository)) if path
        }
        libraries |= {os.path.realpath(path) for path in sysconfig.get_paths().values()}
        self._readable = (self._inside, *(f"{path}/" for path in libraries), *_SYSTEM)
        self._seen: list[str] = []
        self._may_write = self._on = False
        sys.addaudithook(self._hook)

    @contextmanager
    def watch(self, *, may_write: bool) -> Iterator[list[str]]:
        """What is done meanwhile and is not allowed. With `may_write`, files inside of the folder may change."""
        self._seen, self._may_write, self._on = [], may_write, True
        try:
            yield self._seen
        finally:
            self._on = False

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event == "open":
            self._opened(*arguments)
        elif event in _CHANGES:
            folder = next((f"/proc/self/fd/{one}/" for one in arguments[1:] if type(one) is int and one >= 0), "")
            for path in arguments[:2]:
                if isinstance(path, str | bytes | os.PathLike):
                    whole = os.path.join(folder, os.fsdecode(path))  # a name in an open folder, as rmtree has it
                    if not (self._may_write and self._is_inside(whole)):
                        self._note(f"{event} {whole!r}")
        elif event in _NEVER:
            self._note(f"{event} {arguments!r:.200}")
        elif event == "exec" and self._is_inside(getattr(arguments[0], "co_filename", "/")):
            self._note("runs code of the input")

    def _opened(self, path: Any, _mode: Any, flags: int) -> None:
        if isinstance(path, int) or path is None:
            return
        real = os.path.realpath(os.fsdecode(path))
        if real == os.devnull or real.startswith(_MEMORY):
            return
        if flags & _WRITES and not (self._may_write and self._is_inside(path)):
            self._note(f"opens {path!r} to write")
        elif not real.startswith(self._readable):
            self._note(f"reads {path!r}")

    def _is_inside(self, path: Any) -> bool:
        return (os.path.realpath(os.fsdecode(path)) + "/").startswith(self._inside)

    def _note(self, what: str) -> None:
        self._on = False  # what is done here is no deed of the reader
        self._seen.append(what)
        self._on = True


def use_temporary_files_of(folder: Path) -> None:
    """Makes `tempfile` work inside of this folder."""
    folder.mkdir(exist_ok=True)
    tempfile.tempdir = str(folder)
