"""Writes that a kill or a power cut leaves either undone or complete."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from s2l_nemo.errors import UserError

TEMPORARY = ".tmp-"  # prefix of names that are not yet part of a run, or never will be


def sync(path: Path) -> None:
    """Waits until the bytes of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def errors_about(path: Path, temporary: Path) -> Iterator[None]:
    """An OSError about `temporary` or a file in it names `path`, which is what a person has given."""
    try:
        yield
    except OSError as error:
        name = str(error.filename)
        if name.startswith(str(temporary)):
            error.filename = str(path) + name.removeprefix(str(temporary))
            error.filename2 = None  # of a rename that failed
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder. On success the file there takes the place of `path`.

    An OSError about the temporary file names `path`, which is what a person has given.
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}.{os.getpid()}")
    with errors_about(path, temporary):
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)


def write_text_atomic(path: Path, text: str) -> None:
    """Replaces the file by `text` (UTF-8), or leaves it as it was."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json_atomic(path: Path, obj: object) -> None:
    """Replaces the file by `obj` as JSON. Raises ValueError for NaN and infinities, which JSON does not have."""
    write_text_atomic(path, json.dumps(obj, indent=2, allow_nan=False) + "\n")


def parse_json(path: Path) -> Any:
    """The JSON in a file. Raises ValueError if it is none or has an integer of more than 64 bits, or OSError."""
    try:
        return json.loads(path.read_bytes(), parse_int=_integer)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _integer(text: str) -> int:
    value = int(text)
    if abs(value) >= 2**64:  # no record has one, and it overflows where it meets a float
        raise ValueError("an integer of more than 64 bits")
    return value


def read_json_object(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError, which ends with `remedy`, if it holds anything else."""
    try:
        value = parse_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): {remedy}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is no JSON object: {remedy}")
    return value


def check_writable(path: Path) -> None:
    """Raises OSError if a folder, or the one in which it would be made, cannot be written. Changes nothing."""
    existing = path.absolute()
    while not os.path.lexists(existing):
        existing = existing.parent
    if not existing.is_dir():
        number = errno.ENOENT if existing.is_symlink() else errno.ENOTDIR  # a link that leads nowhere
    elif not os.access(existing, os.W_OK | os.X_OK):
        number = errno.EROFS if os.statvfs(existing).f_flag & os.ST_RDONLY else errno.EACCES
    else:
        return
    raise OSError(number, os.strerror(number), str(existing))


def check_free_space(path: str | Path, needed_bytes: int) -> None:
    """Raises UserError if the file system of `path` has less than `needed_bytes` free. `path` need not exist yet."""
    existing = Path(path).absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise UserError(
            f"{path} needs {needed_bytes / 1e9:.2f} GB and {existing} has {free / 1e9:.2f} GB free; "
            "free some space or choose another place"
        )
