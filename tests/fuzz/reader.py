"""What the fuzzer needs to know of a reader of outside files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from s2l_nemo.errors import UserError
from tests.fuzz.mutate import Mutate, damage


@dataclass(frozen=True)
class Harness:
    """A reader that is ready: what surrounds its file has been written.

    Every seed is read without an error. Every other input is read, or refused with one of `refusals` in one line.
    """

    seeds: Sequence[bytes]
    read: Callable[[bytes], object]  # gets the input, which lies in `file` already if there is one
    file: Path | None = None
    mutate: Mutate = damage
    refusals: tuple[type[Exception], ...] = (UserError,)
    may_write: bool = False  # inside of its folder


@dataclass(frozen=True)
class Reader:
    """`covers` are the modules of s2l_nemo whose reading this tries. `prepare` gets an empty folder."""

    name: str
    covers: tuple[str, ...]
    prepare: Callable[[Path], Harness]
    quick: int = 200  # inputs in `make test`; fewer for one that takes long
