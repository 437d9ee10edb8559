"""A tensor as parts stacked along its first dimension, so that converting is a matter of choosing rows, not copying."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from s2l_nemo.models.formats.dtypes import Dtype
from s2l_nemo.models.formats.regions import Region


class Sliceable(Protocol):
    """Rows that can be counted and cut: a `Part`, or a tensor of torch."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice, /) -> Sliceable: ...


class Part(Protocol):
    """Consecutive rows of a tensor as bytes, wherever these are."""

    @property
    def row_bytes(self) -> int: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice, /) -> Part: ...
    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fills `buffer` with the bytes from `start` on."""


Rows = tuple[Part, ...]
"""Parts of n_i rows of one tensor [sum n_i, ...]."""

S = TypeVar("S", bound=Sliceable)


def take(rows: tuple[S, ...], start: int, stop: int) -> tuple[S, ...]:
    """Rows `start` to `stop`, as views."""
    taken: list[S] = []
    for part in rows:
        low, high = max(start, 0), min(stop, len(part))
        if low < high:
            taken.append(part[low:high])  # type: ignore[arg-type]  # a slice has the type of what was cut
        start, stop = start - len(part), stop - len(part)
    return tuple(taken)


def count(rows: tuple[Sliceable, ...]) -> int:
    return sum(len(part) for part in rows)


def size(rows: Rows) -> int:
    """Bytes of all rows."""
    return sum(len(part) * part.row_bytes for part in rows)


@dataclass(frozen=True)
class FileRows:
    """Rows that are in a file and are read each time they are asked for."""

    region: Region
    row_bytes: int

    def __len__(self) -> int:
        return self.region.size // self.row_bytes if self.row_bytes else 0

    def __getitem__(self, rows: slice, /) -> FileRows:
        start, stop, _ = rows.indices(len(self))
        return FileRows(self.region.part(start * self.row_bytes, (stop - start) * self.row_bytes), self.row_bytes)

    def read_into(self, start: int, buffer: memoryview) -> None:
        self.region.read_into(start, buffer)


@dataclass(frozen=True)
class MemoryRows:
    """Rows that are in memory, in a contiguous view of bytes."""

    data: memoryview
    row_bytes: int

    def __len__(self) -> int:
        return len(self.data) // self.row_bytes if self.row_bytes else 0

    def __getitem__(self, rows: slice, /) -> MemoryRows:
        start, stop, _ = rows.indices(len(self))
        return MemoryRows(self.data[start * self.row_bytes : stop * self.row_bytes], self.row_bytes)

    def read_into(self, start: int, buffer: memoryview) -> None:
        buffer[:] = self.data[start : start + len(buffer)]


@dataclass(frozen=True)
class CastRows:
    """Rows whose elements are cast as they are read, a block at a time."""

    stored: Part
    dtype: Dtype  # of `stored`
    wanted: Dtype

    @property
    def row_bytes(self) -> int:
        return self.stored.row_bytes // self.dtype.itemsize * self.wanted.itemsize

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, rows: slice, /) -> CastRows:
        return CastRows(self.stored[rows], self.dtype, self.wanted)

    def read_into(self, start: int, buffer: memoryview) -> None:
        import torch  # slow to import, and only a cast needs it

        first = start // self.wanted.itemsize
        last = -(-(start + len(buffer)) // self.wanted.itemsize)
        data = torch.empty((last - first) * self.dtype.itemsize, dtype=torch.uint8)
        self.stored.read_into(first * self.dtype.itemsize, data.numpy().data)
        elements = data.view(getattr(torch, self.dtype.name)).to(getattr(torch, self.wanted.name))
        skipped = start - first * self.wanted.itemsize
        buffer[:] = elements.view(torch.uint8).numpy().data[skipped : skipped + len(buffer)]


def cast(rows: Rows, stored: Dtype, wanted: Dtype) -> Rows:
    """Rows of bytes of another type; the same rows where it is the same."""
    return rows if stored == wanted else tuple(CastRows(part, stored, wanted) for part in rows)


def blocks(rows: Rows, block: int) -> Iterator[memoryview]:
    """All bytes in blocks of this size, the last one shorter, however the rows are cut. A block lives until the next
    is asked for: they share their memory."""
    buffer = memoryview(bytearray(min(block, size(rows))))
    filled = 0
    for part in rows:
        done, total = 0, len(part) * part.row_bytes
        while done < total:
            step = min(total - done, len(buffer) - filled)
            part.read_into(done, buffer[filled : filled + step])
            done, filled = done + step, filled + step
            if filled == len(buffer):
                yield buffer
                filled = 0
    if filled:
        yield buffer[:filled]


def same_bytes(one: Rows, other: Rows) -> bool:
    """Whether two tensors of one size are equal bit by bit."""
    pairs = zip(blocks(one, 2**24), blocks(other, 2**24), strict=True)
    return all(left.tobytes() == right.tobytes() for left, right in pairs)
