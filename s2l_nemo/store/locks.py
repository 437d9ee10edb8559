"""Locks between processes. A process that ends, however it ends, leaves none behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from s2l_nemo.errors import UserError


class LockedError(Exception):
    """Another process holds the lock."""


@contextlib.contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Holds the lock of the file, which is made if it is missing.

    Raises LockedError if it is taken, unless `wait`, and UserError if the file system has no locks.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except (BlockingIOError, PermissionError):
            raise LockedError(str(path)) from None
        except OSError as error:
            raise UserError(
                f"{path} cannot be locked ({error.strerror}): put the store on a file system that locks files"
            ) from None
        yield
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock of the file."""
    try:
        with locked(path, wait=False):
            return False
    except LockedError:
        return True
