"""The bytes of a file of rows, unpacked if it is compressed."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from s2l_nemo.errors import UserError

MAX_LINE_BYTES = 64 * 2**20  # a file without line breaks must not fill the memory
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
GZIP = ".gz"


def kind_of(path: Path) -> str:
    """The ending of a file's name that says what it holds, such as `.jsonl` of `train.jsonl.gz`."""
    return (path.with_suffix("") if path.suffix == GZIP else path).suffix


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file from its first byte on, behind a byte order mark. `.gz` is unpacked.

    Raises UserError if it cannot be opened, and while it is read if it is damaged.
    """
    try:
        with cast(BinaryIO, gzip.open(path)) if path.suffix == GZIP else path.open("rb") as file:
            if start(file).startswith(BYTE_ORDER_MARK):
                file.read(len(BYTE_ORDER_MARK))
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"cannot read prompts from {path}: no gzip file, or a damaged one ({error})") from error
    except OSError as error:
        raise UserError(f"cannot read prompts from {path}: {error.strerror}; correct the path") from error


def start(file: BinaryIO) -> bytes:
    """The next bytes of the file, which stay unread: a few thousand, or all that there are."""
    return bytes(file.peek(1))  # type: ignore[attr-defined]  # both kinds of file have it


def lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Every line; None in place of a line over `MAX_LINE_BYTES`."""
    while line := file.readline(MAX_LINE_BYTES):
        if len(line) < MAX_LINE_BYTES or line.endswith(b"\n"):
            yield line
        else:
            while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield None
