"""A tensor as parts stacked along its first dimension, so that converting is a matter of choosing rows, not copying."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch

Rows = tuple[torch.Tensor, ...]
"""Parts [n_i, ...] of one tensor [sum n_i, ...]. From a file they are bytes [n_i, bytes per row]: mapped, not read."""


def take(rows: Rows, start: int, stop: int) -> Rows:
    """Rows `start` to `stop`, as views."""
    taken: list[torch.Tensor] = []
    for part in rows:
        low, high = max(start, 0), min(stop, part.size(0))
        if low < high:
            taken.append(part[low:high])
        start, stop = start - part.size(0), stop - part.size(0)
    return tuple(taken)


def count(rows: Rows) -> int:
    return sum(part.size(0) for part in rows)


def join(rows: Rows) -> torch.Tensor:
    """The tensor itself; a copy unless it is one part."""
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def from_bytes(rows: Rows, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """The tensor that rows of bytes hold. Copies: a mapped part need not be aligned, and its file may go away."""
    flat = torch.empty(sum(part.numel() for part in rows), dtype=torch.uint8)
    offset = 0
    for part in rows:
        flat[offset : offset + part.numel()].copy_(part.reshape(-1))
        offset += part.numel()
    return flat.view(dtype).view(shape)


def to_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """A contiguous tensor [n, ...] as bytes [n, bytes per row], without a copy."""
    return tensor.detach().reshape(-1).view(torch.uint8).view(tensor.size(0), -1)


def cast(rows: Rows, stored: torch.dtype, wanted: torch.dtype) -> Rows:
    """Rows of bytes of another type; the same views where it is the same."""
    if stored == wanted:
        return rows
    width = stored.itemsize
    return tuple(
        to_bytes(from_bytes((part,), stored, (part.size(0), part.size(1) // width)).to(wanted)) for part in rows
    )


def aligned(one: Rows, other: Rows, block: int = 64 * 2**20) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The same rows of two equally shaped tensors side by side, at most `block` bytes of each at a time."""
    assert count(one) == count(other), "rows of two different shapes"
    cuts: set[int] = set()
    for rows in (one, other):
        end = 0
        for part in rows:
            step = max(1, block // max(1, part[:1].numel()))
            cuts.update(range(end, end + part.size(0), step))
            end += part.size(0)
    for start, stop in pairwise([*sorted(cuts), count(one)]):
        (left,), (right,) = take(one, start, stop), take(other, start, stop)
        yield left, right


def buffers(rows: Rows) -> list[memoryview]:
    """The bytes of rows of bytes, part by part, without a copy where a part is contiguous."""
    return [part.contiguous().numpy().reshape(-1).data for part in rows]
