"""Compares two checkpoints of any formats, tensor by tensor and bit by bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from s2l_nemo.models.checkpoints.checkpoint import Checkpoint
from s2l_nemo.models.formats.dtypes import BFLOAT16, FLOAT16, Dtype
from s2l_nemo.models.formats.rows import blocks
from s2l_nemo.models.layout import Entry, entries
from s2l_nemo.models.shape import full_shape

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
_BLOCK = 16 * 2**20  # bytes of each side in memory at a time


@dataclass(frozen=True)
class Difference:
    """`what` differs: a figure, a file or a tensor (Megatron's name). `one` and `other` say how, for people."""

    what: str
    one: str
    other: str


def compare(one: Checkpoint, other: Checkpoint, progress: Callable[[int], None]) -> Iterator[Difference]:
    """Yields every difference. Tensors are compared only if figures and types are the same. NaNs count as bits.

    It reads blocks, so its memory does not depend on the size of the models. `progress` is told the bytes compared.
    """
    figures = list(_figures(one, other))
    yield from figures
    yield from _tokenizers(one, other)
    if figures:
        return
    for entry in entries(one.shape):
        yield from _tensors(one, other, entry, progress)


def compared_bytes(checkpoint: Checkpoint) -> int:
    """What `compare` tells `progress` in all."""
    elements = sum(math.prod(full_shape(entry.rule, checkpoint.shape)) for entry in entries(checkpoint.shape))
    return elements * checkpoint.dtype.itemsize


def _figures(one: Checkpoint, other: Checkpoint) -> Iterator[Difference]:
    left, right = (
        # a model and its engine form are one model under two names
        {**asdict(checkpoint.shape), "family": checkpoint.shape.engine_family, "dtype": checkpoint.dtype}
        for checkpoint in (one, other)
    )
    for name, value in left.items():
        if value != right[name]:
            yield Difference(name, str(value), str(right[name]))


def _tokenizers(one: Checkpoint, other: Checkpoint) -> Iterator[Difference]:
    for name in TOKENIZER_FILES:
        left, right = one.hf_files.get(name), other.hf_files.get(name)
        if left and right and left.read() != right.read():
            yield Difference(name, f"{left.size:,} bytes", f"{right.size:,} bytes")


def _tensors(one: Checkpoint, other: Checkpoint, entry: Entry, progress: Callable[[int], None]) -> Iterator[Difference]:
    different, largest = 0, 0.0
    bits = numpy.uint32 if one.dtype.itemsize == 4 else numpy.uint16
    pairs = zip(blocks(one.rows(entry), _BLOCK), blocks(other.rows(entry), _BLOCK), strict=True)
    for left, right in pairs:
        x, y = numpy.frombuffer(left, bits), numpy.frombuffer(right, bits)
        differs = x != y
        if differs.any():
            different += int(differs.sum())
            gap = numpy.abs(_values(x[differs], one.dtype) - _values(y[differs], one.dtype))
            largest = max(largest, float(numpy.nan_to_num(gap, nan=math.inf).max()))
        progress(len(left))
    if different:
        name = entry.rule.megatron if entry.layer is None else f"layer {entry.layer}: {entry.rule.megatron}"
        total = math.prod(full_shape(entry.rule, one.shape))
        yield Difference(name, f"{different:,} of {total:,} elements differ", f"by up to {largest:.3g}")


def _values(bits: NDArray[Any], dtype: Dtype) -> NDArray[numpy.float64]:
    """The numbers that bits stand for. bfloat16 is the upper half of float32."""
    if dtype == FLOAT16:
        return bits.view(numpy.float16).astype(numpy.float64)
    wide = bits.astype(numpy.uint32) << 16 if dtype == BFLOAT16 else bits
    return wide.view(numpy.float32).astype(numpy.float64)
