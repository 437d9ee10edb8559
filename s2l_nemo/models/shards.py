"""Shards of tensor parallelism, and the buckets in which a running actor's shards become full tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from s2l_nemo.models.formats.rows import S, count, take
from s2l_nemo.models.fusion import split
from s2l_nemo.models.layout import Entry
from s2l_nemo.models.names import Rule
from s2l_nemo.models.shape import ModelShape, full_shape


def shard_rows(rule: Rule, full: tuple[S, ...], tp_size: int, tp_rank: int) -> tuple[S, ...]:
    """The rows that one tensor-parallel rank holds of a full tensor. The tensor must not be cut along its columns.

    Each block of rows is cut by itself: of gate and up, rank i holds [gate_i; up_i], not a chunk of [gate; up].
    """
    assert rule.tp_dim != 1, f"{rule.megatron} is cut along its columns"
    if rule.tp_dim is None or tp_size == 1:
        return full
    step = count(full) // rule.blocks // tp_size
    starts = [block * step * tp_size + tp_rank * step for block in range(rule.blocks)]
    return tuple(part for start in starts for part in take(full, start, start + step))


def shard(rule: Rule, full: torch.Tensor, tp_size: int, tp_rank: int) -> torch.Tensor:
    """The part of a full Megatron tensor that one tensor-parallel rank holds."""
    if rule.tp_dim == 1:
        return full.chunk(tp_size, 1)[tp_rank]
    return join(shard_rows(rule, (full,), tp_size, tp_rank))


def unshard(rule: Rule, shards: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Inverse of `shard`: the rows of the full tensor, from the shards of all tensor-parallel ranks in order."""
    if rule.tp_dim is None or len(shards) == 1:
        return (shards[0],)
    if rule.tp_dim == 1:
        return (torch.cat(list(shards), 1),)
    blocks = [part.chunk(rule.blocks) for part in shards]
    return tuple(one[block] for block in range(rule.blocks) for one in blocks)


def shard_shape(rule: Rule, shape: ModelShape, tp_size: int) -> tuple[int, ...]:
    sizes = list(full_shape(rule, shape))
    if rule.tp_dim is not None:
        sizes[rule.tp_dim] //= tp_size
    return tuple(sizes)


def join(rows: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The tensor of these rows. It is a copy unless there is one part."""
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def pack(tensors: list[torch.Tensor]) -> torch.Tensor:
    """One flat buffer of a bucket's shards, so that a bucket costs one collective."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def unpack(bucket: list[Entry], flats_by_rank: torch.Tensor, shape: ModelShape) -> dict[str, torch.Tensor]:
    """Full Hugging Face tensors of a bucket from the packed shards `[TP, N]` of all tensor-parallel ranks."""
    tp_size = flats_by_rank.size(0)
    named: dict[str, torch.Tensor] = {}
    offset = 0
    for entry in bucket:
        sizes = shard_shape(entry.rule, shape, tp_size)
        elements = math.prod(sizes)
        shards = [flats_by_rank[rank, offset : offset + elements].view(sizes) for rank in range(tp_size)]
        offset += elements
        parts = split(entry.rule, unshard(entry.rule, shards), shape)
        named.update(zip(entry.hf_names(), map(join, parts), strict=True))
    return named
