"""Rows of bytes as tensors of torch, to fill an actor or an engine; tensors as rows of bytes, to export them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch

from s2l_nemo.models.checkpoints.checkpoint import Checkpoint
from s2l_nemo.models.formats.dtypes import DTYPES, Dtype
from s2l_nemo.models.formats.rows import MemoryRows, Rows
from s2l_nemo.models.fusion import hf_shapes, split
from s2l_nemo.models.layout import entries


def dtype_of(dtype: torch.dtype) -> Dtype:
    return DTYPES[str(dtype).removeprefix("torch.")]


def tensor_of(rows: Rows, dtype: Dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """The tensor that the rows hold, in new memory."""
    flat = torch.empty(sum(len(part) * part.row_bytes for part in rows), dtype=torch.uint8)
    buffer, offset = flat.numpy().data, 0
    for part in rows:
        part_bytes = len(part) * part.row_bytes
        part.read_into(0, buffer[offset : offset + part_bytes])
        offset += part_bytes
    return flat.view(getattr(torch, dtype.name)).view(shape)


def rows_of(tensor: torch.Tensor) -> Rows:
    """The rows of a tensor on the CPU. A contiguous tensor is not copied. A scalar is one row."""
    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    rows = tensor.size(0) if tensor.dim() else 1
    return (MemoryRows(data.numpy().data, data.numel() // max(rows, 1)),)


def named_tensors(checkpoint: Checkpoint, family: str) -> Iterator[dict[str, torch.Tensor]]:
    """Yields every tensor of a checkpoint, one at a time, under the Hugging Face names of `family`."""
    for entry in entries(checkpoint.shape, family=family):
        parts = split(entry.rule, checkpoint.rows(entry), checkpoint.shape)
        for name, rows, sizes in zip(entry.hf_names(), parts, hf_shapes(entry.rule, checkpoint.shape), strict=True):
            yield {name: tensor_of(rows, checkpoint.dtype, sizes)}


def tensors_of_buckets(buckets: Iterable[Mapping[str, torch.Tensor]]) -> Iterator[tuple[str, Rows]]:
    """Yields the rows of tensors that come in buckets. One bucket is in memory at a time."""
    for bucket in buckets:
        for name, tensor in bucket.items():
            yield name, rows_of(tensor.cpu())
