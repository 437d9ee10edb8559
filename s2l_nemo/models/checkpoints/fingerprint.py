"""A fingerprint of a model's weights that is cheap to take, whatever their size and format."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from itertools import accumulate

from s2l_nemo.models.checkpoints.checkpoint import Checkpoint
from s2l_nemo.models.formats.rows import Rows
from s2l_nemo.models.formats.rows import size as size_of
from s2l_nemo.models.layout import entries

PIECES, PIECE = 16, 4096  # of each tensor, and bytes of one


def weights_fingerprint(checkpoint: Checkpoint) -> str:
    """SHA-256, as hex, over the names of all tensors, their sizes and type, and a sample of their bytes.

    A tensor of up to `PIECES` x `PIECE` bytes is read as a whole, a larger one in as many pieces at even distances,
    from its first byte to its last. So weights of another training differ. Those that differ in a few numbers may not.
    The same tensors in other files or another format are equal.
    """
    digest = hashlib.sha256(checkpoint.dtype.name.encode())
    for entry in entries(checkpoint.shape):
        rows = checkpoint.rows(entry)
        digest.update(f"{entry.tensor} {size_of(rows)}\n".encode())
        for start, size in sampled(size_of(rows)):
            digest.update(read(rows, start, size))
    return digest.hexdigest()


def sampled(size: int) -> list[tuple[int, int]]:
    """(start, bytes) of the pieces that are read of a tensor of `size` bytes."""
    if size <= PIECES * PIECE:
        return [(0, size)]
    return [((size - PIECE) * piece // (PIECES - 1), PIECE) for piece in range(PIECES)]


def read(rows: Rows, start: int, size: int) -> bytes:
    """`size` bytes of a tensor from byte `start` on, however it is cut."""
    ends = list(accumulate(len(part) * part.row_bytes for part in rows))
    found = bytearray(size)
    done, index = 0, bisect_right(ends, start)
    while done < size:
        first = ends[index - 1] if index else 0
        step = min(size - done, ends[index] - (start + done))
        rows[index].read_into(start + done - first, memoryview(found)[done : done + step])
        done, index = done + step, index + 1
    return bytes(found)
