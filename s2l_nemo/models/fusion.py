"""Between a Megatron tensor and the Hugging Face tensors that it is made of."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import assert_never

from s2l_nemo.models.formats.rows import S, take
from s2l_nemo.models.names import (
    DOWN,
    EMBEDDING,
    GATE_UP,
    K_NORM,
    OUTPUT,
    PROJECTION,
    Q_NORM,
    QKV,
    QKV_BIAS,
    Operation,
    Rule,
)
from s2l_nemo.models.shape import ModelShape, full_shape


def fuse(rule: Rule, tensors: Sequence[tuple[S, ...]], shape: ModelShape) -> tuple[S, ...]:
    """The whole Megatron tensor from the rule's Hugging Face tensors, as views of their rows (see `Operation`)."""
    match rule.operation:
        case Operation.COPY | Operation.GATE_UP:
            return tuple(part for rows in tensors for part in rows)
        case Operation.QKV:
            q, k, v = tensors
            return _fuse_qkv(q, k, v, shape)
        case _:
            assert_never(rule.operation)


def split(rule: Rule, full: tuple[S, ...], shape: ModelShape) -> tuple[tuple[S, ...], ...]:
    """Inverse of `fuse`: the Hugging Face tensors of the rule, in its order, as views of the whole Megatron tensor."""
    match rule.operation:
        case Operation.COPY:
            return (full,)
        case Operation.GATE_UP:
            return take(full, 0, shape.ffn), take(full, shape.ffn, 2 * shape.ffn)
        case Operation.QKV:
            return _split_qkv(full, shape)
        case _:
            assert_never(rule.operation)


def _fuse_qkv(q: tuple[S, ...], k: tuple[S, ...], v: tuple[S, ...], shape: ModelShape) -> tuple[S, ...]:
    wide, narrow = shape.query // shape.kv_heads, shape.head_dim  # rows of a group in q, and in k or v
    parts: list[S] = []
    for group in range(shape.kv_heads):
        parts += take(q, group * wide, (group + 1) * wide)
        parts += take(k, group * narrow, (group + 1) * narrow)
        parts += take(v, group * narrow, (group + 1) * narrow)
    return tuple(parts)


def _split_qkv(full: tuple[S, ...], shape: ModelShape) -> tuple[tuple[S, ...], ...]:
    wide, narrow = shape.query // shape.kv_heads, shape.head_dim
    q: list[S] = []
    k: list[S] = []
    v: list[S] = []
    for start in range(0, shape.kv_heads * (wide + 2 * narrow), wide + 2 * narrow):
        q += take(full, start, start + wide)
        k += take(full, start + wide, start + wide + narrow)
        v += take(full, start + wide + narrow, start + wide + 2 * narrow)
    return tuple(q), tuple(k), tuple(v)


def hf_shapes(rule: Rule, shape: ModelShape) -> tuple[tuple[int, ...], ...]:
    """Shapes of the rule's Hugging Face tensors, in its order."""
    full = full_shape(rule, shape)
    columns = full[1:]
    match rule.operation:
        case Operation.COPY:
            return (full,)
        case Operation.GATE_UP:
            return ((shape.ffn, *columns),) * 2
        case Operation.QKV:
            return (shape.query, *columns), (shape.kv, *columns), (shape.kv, *columns)
        case _:
            assert_never(rule.operation)


def hf_fields(rule: Rule) -> tuple[str, ...]:
    """The fields of config.json that give `hf_shapes`, for messages."""
    query, kv = "num_attention_heads x head_dim", "num_key_value_heads x head_dim"
    if rule.operation is Operation.QKV:
        columns = "" if rule.megatron == QKV_BIAS else ", hidden_size"
        return query + columns, kv + columns, kv + columns
    fields = {
        QKV: f"({query}) + 2 x ({kv}), hidden_size",
        Q_NORM: "head_dim",
        K_NORM: "head_dim",
        PROJECTION: f"hidden_size, {query}",
        GATE_UP: "intermediate_size, hidden_size",
        DOWN: "hidden_size, intermediate_size",
        EMBEDDING: "vocab_size, hidden_size",
        OUTPUT: "vocab_size, hidden_size",
    }
    return (fields.get(rule.megatron, "hidden_size"),) * len(rule.hf)
