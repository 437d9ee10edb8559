"""The errors that a user sees. Apart from `types` so that reading a config does not import torch."""

from __future__ import annotations

import errno
import io
import os
import sys

LONGEST = 2000  # characters of a message; a list of names may be long, a value of a damaged file may be anything

# What a person can mend about a file or the machine, and how.
REMEDIES = {
    errno.ENOSPC: "free space or inodes there, or choose another place",
    errno.EDQUOT: "free some of your quota, or choose another place",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or choose another file system",
    errno.EROFS: "choose a place that can be written",
    errno.EACCES: "give yourself the right to it, or choose another place",
    errno.EPERM: "give yourself the right to it, or choose another place",
    errno.EIO: "check the disk or the network, and try again",
    errno.ESTALE: "mount the network file system again",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close files of other programs",
    errno.ENOMEM: "free some memory",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "correct the path, or see whether someone has moved or removed it",
    errno.ENOTDIR: "correct the path, or see whether someone has put a file in place of a folder",
    errno.EISDIR: "give a file, or move the folder away",
    errno.EEXIST: "choose another name, or move away what is there",
    errno.ENOTEMPTY: "choose another name, or move away what is there",
    errno.ELOOP: "correct the symbolic links, which lead in a circle",
}
OTHERWISE = "check the path and try again"  # about a file, with a number that is not in the table


class UserError(ValueError):
    """A mistake of the user: one line that says what is wrong, the value, and what to do. Shown without a traceback."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(message: str) -> str:
    """A text that may hold values of a stranger as one line for a terminal.

    Line breaks become spaces. What does not print, such as the escapes that move a cursor, is written out. The middle
    of a very long text is left out: its begin names the place, its end says what to do.
    """
    text = " ".join(message.splitlines())
    if not text.isprintable():
        text = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
    if len(text) > LONGEST:
        text = f"{text[: LONGEST * 3 // 4]} ... {text[-LONGEST // 4 :]}"
    return text


def system_refusal(error: OSError) -> str | None:
    """One line of what the system has refused, where, and what to do; None for what is not about a file.

    An error that names no file, with a number that the table does not know, is of a socket or a process, or a bug of
    ours: a person has nothing to mend, and its traceback is what we need.
    """
    if error.errno is None or isinstance(error, ConnectionError):
        return None
    where = " -> ".join(os.fsdecode(one) for one in (error.filename, error.filename2) if _is_path(one))
    remedy = REMEDIES.get(error.errno, OTHERWISE if where else None)
    if remedy is None:
        return None
    return one_line(f"{where}: {error.strerror}: {remedy}" if where else f"{error.strerror}: {remedy}")


def _is_path(name: object) -> bool:
    """Whether an OSError's `filename` is one: it may be the number of a descriptor, too."""
    return isinstance(name, str | bytes | os.PathLike)


def let_any_text_be_printed() -> None:
    """Prints as escapes what Python would end the program for: half a surrogate pair, which somebody's JSON or the name
    of a folder may hold, and signs that the encoding of the terminal lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
