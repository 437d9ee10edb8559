"""The layouts of Qwen3 in Megatron: by hand, and there and back for any sizes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.convert.names import (
    EMBEDDING,
    FINAL_NORM,
    LAYER_RULES,
    OUTPUT,
    Figures,
    full_shape,
    shard,
    shard_shape,
    to_hugging_face,
    to_megatron,
    unshard,
)
from s2l_nemo.convert.plan import buckets, entries, pack, unpack

ALL_RULES = (*LAYER_RULES, EMBEDDING, FINAL_NORM, OUTPUT)


def rule(name: str):
    return next(rule for rule in ALL_RULES if name in rule.megatron)


def rows(label: int, count: int) -> torch.Tensor:
    """`count` rows of one column: 100 * label + row."""
    return (100.0 * label + torch.arange(count)).view(-1, 1)


def test_qkv_rows_are_grouped_by_kv_head() -> None:
    # 4 query heads, 2 KV heads, head_dim 1: group 0 is q0 q1 k0 v0, group 1 is q2 q3 k1 v1
    figures = Figures(layers=1, hidden=1, ffn=1, heads=4, kv_heads=2, head_dim=1, vocab=2, tied=True)
    full = to_megatron(rule("linear_qkv.weight"), [rows(1, 4), rows(2, 2), rows(3, 2)], figures)
    assert full.flatten().tolist() == [100, 101, 200, 300, 102, 103, 201, 301]
    assert shard(rule("linear_qkv.weight"), full, 2, 1).flatten().tolist() == [102, 103, 201, 301]


def test_gate_up_shard_is_not_a_chunk() -> None:
    figures = Figures(layers=1, hidden=1, ffn=4, heads=2, kv_heads=2, head_dim=1, vocab=2, tied=True)
    fc1 = rule("linear_fc1.weight")
    full = to_megatron(fc1, [rows(1, 4), rows(2, 4)], figures)
    assert shard(fc1, full, 2, 0).flatten().tolist() == [100, 101, 200, 201]
    assert shard(fc1, full, 2, 1).flatten().tolist() == [102, 103, 202, 203]


@st.composite
def any_figures(draw: st.DrawFn) -> tuple[Figures, int]:
    tp_size = draw(st.sampled_from([1, 2, 4]))
    kv_heads = tp_size * draw(st.integers(1, 2))
    return Figures(
        layers=draw(st.sampled_from([2, 4])),
        hidden=draw(st.integers(1, 5)),
        ffn=tp_size * draw(st.integers(1, 3)),
        heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        head_dim=draw(st.integers(1, 4)),
        vocab=tp_size * draw(st.integers(1, 5)),
        tied=draw(st.booleans()),
    ), tp_size


@given(any_figures())
def test_there_and_back(drawn: tuple[Figures, int]) -> None:
    figures, tp_size = drawn
    for one in ALL_RULES:
        full = torch.arange(float(math.prod(full_shape(one, figures)))).view(full_shape(one, figures))
        parts = [shard(one, full, tp_size, rank) for rank in range(tp_size)]
        assert all(part.shape == shard_shape(one, figures, tp_size) for part in parts)
        assert torch.equal(unshard(one, parts), full)
        hf = to_hugging_face(one, full, figures)
        assert len(hf) == len(one.hf)
        assert torch.equal(to_megatron(one, hf, figures), full)


@given(any_figures(), st.sampled_from([1, 2]), st.integers(1, 400))
def test_plan_gives_every_tensor_once(drawn: tuple[Figures, int], pp_size: int, bucket_bytes: int) -> None:
    figures, tp_size = drawn
    plan = entries(figures, pp_size)
    names = [name for entry in plan for name in entry.hf_names()]
    assert len(names) == len(set(names)) == 11 * figures.layers + (2 if figures.tied else 3)
    assert [entry.stage for entry in plan] == sorted(entry.stage for entry in plan)
    tensors = {entry: torch.randn(full_shape(entry.rule, figures)) for entry in plan}
    seen: dict[str, torch.Tensor] = {}
    for bucket in buckets(plan, figures, 4, bucket_bytes):
        assert len({entry.stage for entry in bucket}) == 1
        size = sum(tensors[entry].nbytes for entry in bucket)
        assert len(bucket) == 1 or size <= bucket_bytes
        flats = [pack([shard(e.rule, tensors[e], tp_size, rank) for e in bucket]) for rank in range(tp_size)]
        seen.update(unpack(bucket, torch.stack(flats), figures))
    assert sorted(seen) == sorted(names)
    for entry, full in tensors.items():
        wanted = to_hugging_face(entry.rule, full, figures)
        assert all(torch.equal(seen[name], x) for name, x in zip(entry.hf_names(), wanted, strict=True))


def test_local_names_differ_only_in_the_norms() -> None:
    differ = [one.megatron for one in ALL_RULES if one.local_name() != one.megatron]
    assert differ == ["self_attention.linear_qkv.layer_norm_weight", "mlp.linear_fc1.layer_norm_weight"]


@pytest.mark.parametrize("pp_size", [1, 2])
def test_layers_are_numbered_within_their_stage(pp_size: int) -> None:
    figures = Figures(layers=4, hidden=1, ffn=1, heads=1, kv_heads=1, head_dim=1, vocab=1, tied=False)
    last = [entry for entry in entries(figures, pp_size) if entry.layer == 3]
    assert {entry.stage for entry in last} == {pp_size - 1}
    assert last[0].parameter_names() == (
        f"decoder.layers.{4 // pp_size - 1}.self_attention.linear_qkv.layer_norm_weight",
        f"decoder.layers.{4 // pp_size - 1}.input_layernorm.weight",
    )
    assert last[0].hf_names() == ("model.layers.3.input_layernorm.weight",)
