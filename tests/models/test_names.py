"""The layouts of the families in Megatron: by hand, and there and back for any sizes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.models.families import FAMILIES
from s2l_nemo.models.fusion import fuse, hf_shapes, split
from s2l_nemo.models.layout import buckets, entries
from s2l_nemo.models.names import QWEN3, Rule
from s2l_nemo.models.shape import ModelShape, full_shape
from s2l_nemo.models.shards import join, pack, shard, shard_rows, shard_shape, unpack, unshard
from tests.models.shapes import small_shape


def all_rules(family: str) -> list[Rule]:
    table = FAMILIES[family].table
    return [table.embedding, *table.layer, table.final_norm, table.output]


def rule(name: str) -> Rule:
    return next(rule for rule in all_rules("qwen3") if name in rule.megatron)


def rows(label: int, count: int) -> tuple[torch.Tensor, ...]:
    """`count` rows of one column: 100 * label + row."""
    return ((100.0 * label + torch.arange(count)).view(-1, 1),)


def values(rows: tuple[torch.Tensor, ...]) -> list[float]:
    return join(rows).flatten().tolist()


def test_qkv_rows_are_grouped_by_kv_head() -> None:
    # 4 query heads, 2 KV heads, head_dim 1: group 0 is q0 q1 k0 v0, group 1 is q2 q3 k1 v1
    shape = small_shape(heads=4, kv_heads=2)
    full = fuse(rule("linear_qkv.weight"), [rows(1, 4), rows(2, 2), rows(3, 2)], shape)
    assert values(full) == [100, 101, 200, 300, 102, 103, 201, 301]
    assert values(shard_rows(rule("linear_qkv.weight"), full, 2, 1)) == [102, 103, 201, 301]
    assert [values(part) for part in split(rule("linear_qkv.weight"), full, shape)] == [
        [100, 101, 102, 103], [200, 201], [300, 301],
    ]  # fmt: skip


def test_biases_of_qwen2_are_grouped_as_their_rows() -> None:
    shape = small_shape(family="qwen2", heads=4, kv_heads=2)
    (bias,) = [one for one in all_rules("qwen2") if one.megatron == "self_attention.linear_qkv.bias"]
    q, k, v = torch.tensor([1.0, 2, 3, 4]), torch.tensor([10.0, 20]), torch.tensor([100.0, 200])
    full = fuse(bias, [(q,), (k,), (v,)], shape)
    assert values(full) == [1, 2, 10, 100, 3, 4, 20, 200]
    assert [values(shard_rows(bias, full, 2, rank)) for rank in (0, 1)] == [[1, 2, 10, 100], [3, 4, 20, 200]]
    assert [values(part) for part in split(bias, full, shape)] == [[1, 2, 3, 4], [10, 20], [100, 200]]


def test_wqkv_of_internlm_is_megatrons_layout_already() -> None:
    (wqkv,) = [rule for rule in FAMILIES["internlm2"].table.layer if rule.hf == ("attention.wqkv.weight",)]
    shape = small_shape(heads=4, kv_heads=2)
    assert values(fuse(wqkv, [rows(1, 8)], shape)) == values(rows(1, 8))


def test_gate_up_shard_is_not_a_chunk() -> None:
    shape = small_shape(ffn=4)
    fc1 = rule("linear_fc1.weight")
    full = fuse(fc1, [rows(1, 4), rows(2, 4)], shape)
    assert values(shard_rows(fc1, full, 2, 0)) == [100, 101, 200, 201]
    assert values(shard_rows(fc1, full, 2, 1)) == [102, 103, 202, 203]


def test_no_table_can_be_changed() -> None:
    with pytest.raises(TypeError):
        FAMILIES["qwen3"] = FAMILIES["llama"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        QWEN3.output = QWEN3.embedding  # type: ignore[misc]
    tied, untied = small_shape(tied=True), small_shape(tied=False)
    before = [entry.hf_names() for entry in entries(untied)]
    entries(tied)  # a tied model first once made peers lose the next model's output layer
    assert [entry.hf_names() for entry in entries(untied)] == before
    assert ("lm_head.weight",) in before


@st.composite
def any_shape(draw: st.DrawFn) -> tuple[ModelShape, int]:
    tp_size = draw(st.sampled_from([1, 2, 4]))
    kv_heads = tp_size * draw(st.integers(1, 2))
    return small_shape(
        family=draw(st.sampled_from(FAMILIES.names())),
        layers=draw(st.sampled_from([2, 4])),
        hidden=draw(st.integers(1, 5)),
        ffn=tp_size * draw(st.integers(1, 3)),
        heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        head_dim=draw(st.integers(1, 4)),
        vocab=tp_size * draw(st.integers(1, 5)),
        tied=draw(st.booleans()),
    ), tp_size


@given(any_shape())
def test_there_and_back(drawn: tuple[ModelShape, int]) -> None:
    shape, tp_size = drawn
    for one in all_rules(shape.family):
        full = torch.arange(float(math.prod(full_shape(one, shape)))).view(full_shape(one, shape))
        parts = [shard(one, full, tp_size, rank) for rank in range(tp_size)]
        assert all(part.shape == shard_shape(one, shape, tp_size) for part in parts)
        assert torch.equal(join(unshard(one, parts)), full)
        hf = split(one, (full,), shape)
        assert len(hf) == len(one.hf)
        assert tuple(join(rows).shape for rows in hf) == hf_shapes(one, shape)
        assert torch.equal(join(fuse(one, hf, shape)), full)


@given(any_shape(), st.sampled_from([1, 2]), st.integers(1, 400))
def test_plan_gives_every_tensor_once(drawn: tuple[ModelShape, int], pp_size: int, bucket_bytes: int) -> None:
    shape, tp_size = drawn
    plan = entries(shape, pp_size)
    names = [name for entry in plan for name in entry.hf_names()]
    per_layer = {"qwen3": 11, "llama": 9, "internlm2": 7, "qwen2": 12}[shape.family]
    assert len(names) == len(set(names)) == per_layer * shape.layers + (2 if shape.tied else 3)
    assert [entry.stage for entry in plan] == sorted(entry.stage for entry in plan)
    tensors = {entry: torch.randn(full_shape(entry.rule, shape)) for entry in plan}
    seen: dict[str, torch.Tensor] = {}
    for bucket in buckets(plan, shape, 4, bucket_bytes):
        assert len({entry.stage for entry in bucket}) == 1
        size = sum(tensors[entry].nbytes for entry in bucket)
        alone = len(bucket) == 1 or (len(bucket) == 2 and bucket[1].is_bias)
        assert alone or size <= bucket_bytes
        assert not bucket[0].is_bias  # it comes with its weight
        flats = [pack([shard(e.rule, tensors[e], tp_size, rank) for e in bucket]) for rank in range(tp_size)]
        seen.update(unpack(bucket, torch.stack(flats), shape))
    assert sorted(seen) == sorted(names)
    for entry, full in tensors.items():
        wanted = map(join, split(entry.rule, (full,), shape))
        assert all(torch.equal(seen[name], x) for name, x in zip(entry.hf_names(), wanted, strict=True))


@pytest.mark.parametrize("family", FAMILIES.names())
def test_local_names_differ_only_in_the_norms(family: str) -> None:
    differ = [one.megatron for one in all_rules(family) if one.local_name() != one.megatron]
    assert differ == ["self_attention.linear_qkv.layer_norm_weight", "mlp.linear_fc1.layer_norm_weight"]


@pytest.mark.parametrize("pp_size", [1, 2])
def test_layers_are_numbered_within_their_stage(pp_size: int) -> None:
    shape = small_shape(layers=4, tied=False)
    last = [entry for entry in entries(shape, pp_size) if entry.layer == 3]
    assert {entry.stage for entry in last} == {pp_size - 1}
    assert last[0].parameter_names() == (
        f"decoder.layers.{4 // pp_size - 1}.self_attention.linear_qkv.layer_norm_weight",
        f"decoder.layers.{4 // pp_size - 1}.input_layernorm.weight",
    )
    assert last[0].hf_names() == ("model.layers.3.input_layernorm.weight",)
