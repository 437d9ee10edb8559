"""Names and layouts of Qwen3 in Hugging Face and in Megatron-core, as one declarative table.

Megatron names are those of checkpoints and of Transformer Engine layers; `local` is the name in local (torch) layers
where it differs. Sources: transformers `modeling_qwen3.py`, megatron-core `gpt_layer_specs.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

Operation = Literal["copy", "qkv", "gate_up"]


@dataclass(frozen=True)
class Figures:
    """The figures of a model that its layouts depend on, all from config.json."""

    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool


@dataclass(frozen=True)
class Rule:
    """One Megatron tensor and the Hugging Face tensors that it is made of. `{n}` is the layer."""

    megatron: str
    hf: tuple[str, ...]
    operation: Operation = "copy"
    tp_dim: int | None = None  # dimension that tensor parallelism cuts; None: replicated
    local: str | None = None

    def local_name(self) -> str:
        return self.local or self.megatron


LAYER_RULES: tuple[Rule, ...] = (
    Rule("self_attention.linear_qkv.layer_norm_weight", ("input_layernorm.weight",), local="input_layernorm.weight"),
    Rule(
        "self_attention.linear_qkv.weight",
        ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
        operation="qkv",
        tp_dim=0,
    ),
    Rule("self_attention.q_layernorm.weight", ("self_attn.q_norm.weight",)),
    Rule("self_attention.k_layernorm.weight", ("self_attn.k_norm.weight",)),
    Rule("self_attention.linear_proj.weight", ("self_attn.o_proj.weight",), tp_dim=1),
    Rule(
        "mlp.linear_fc1.layer_norm_weight",
        ("post_attention_layernorm.weight",),
        local="pre_mlp_layernorm.weight",
    ),
    Rule("mlp.linear_fc1.weight", ("mlp.gate_proj.weight", "mlp.up_proj.weight"), operation="gate_up", tp_dim=0),
    Rule("mlp.linear_fc2.weight", ("mlp.down_proj.weight",), tp_dim=1),
)
EMBEDDING = Rule("embedding.word_embeddings.weight", ("model.embed_tokens.weight",), tp_dim=0)
FINAL_NORM = Rule("decoder.final_layernorm.weight", ("model.norm.weight",))
OUTPUT = Rule("output_layer.weight", ("lm_head.weight",), tp_dim=0)


def layer_hf_names(rule: Rule, layer: int) -> tuple[str, ...]:
    return tuple(f"model.layers.{layer}.{name}" for name in rule.hf)


def to_megatron(rule: Rule, tensors: Sequence[torch.Tensor], figures: Figures) -> torch.Tensor:
    """The full (unsharded) Megatron tensor from the rule's Hugging Face tensors.

    `qkv`: for each KV group its q heads, then its k head, then its v head. `gate_up`: all gate rows, then all up rows.
    """
    if rule.operation == "qkv":
        per_group = zip(*(tensor.chunk(figures.kv_heads) for tensor in tensors), strict=True)
        return torch.cat([torch.cat(group) for group in per_group])
    if rule.operation == "gate_up":
        return torch.cat(list(tensors))
    (tensor,) = tensors
    return tensor


def to_hugging_face(rule: Rule, full: torch.Tensor, figures: Figures) -> tuple[torch.Tensor, ...]:
    """Inverse of `to_megatron`."""
    if rule.operation == "qkv":
        q_rows = figures.heads // figures.kv_heads * figures.head_dim
        grouped = full.view(figures.kv_heads, q_rows + 2 * figures.head_dim, full.size(-1))
        parts = grouped.split([q_rows, figures.head_dim, figures.head_dim], dim=1)
        return tuple(part.reshape(-1, full.size(-1)) for part in parts)
    if rule.operation == "gate_up":
        return full.chunk(2)
    return (full,)


def shard(rule: Rule, full: torch.Tensor, tp_size: int, tp_rank: int) -> torch.Tensor:
    """This tensor-parallel rank's part. `gate_up` on rank i is [gate_i; up_i], not a chunk of [gate; up]."""
    if rule.tp_dim is None or tp_size == 1:
        return full
    if rule.operation == "gate_up":
        return torch.cat([half.chunk(tp_size)[tp_rank] for half in full.chunk(2)])
    return full.chunk(tp_size, rule.tp_dim)[tp_rank]


def unshard(rule: Rule, shards: Sequence[torch.Tensor]) -> torch.Tensor:
    """Inverse of `shard`, from the parts of all tensor-parallel ranks in order."""
    if rule.tp_dim is None or len(shards) == 1:
        return shards[0]
    if rule.operation == "gate_up":
        halves = [part.chunk(2) for part in shards]
        return torch.cat([gate for gate, _ in halves] + [up for _, up in halves])
    return torch.cat(list(shards), rule.tp_dim)


def full_shape(rule: Rule, figures: Figures) -> tuple[int, ...]:
    """Shape of the unsharded Megatron tensor."""
    q_rows, kv_rows = figures.heads * figures.head_dim, figures.kv_heads * figures.head_dim
    shapes: Mapping[str, tuple[int, ...]] = {
        "self_attention.linear_qkv.weight": (q_rows + 2 * kv_rows, figures.hidden),
        "self_attention.q_layernorm.weight": (figures.head_dim,),
        "self_attention.k_layernorm.weight": (figures.head_dim,),
        "self_attention.linear_proj.weight": (figures.hidden, q_rows),
        "mlp.linear_fc1.weight": (2 * figures.ffn, figures.hidden),
        "mlp.linear_fc2.weight": (figures.hidden, figures.ffn),
        "embedding.word_embeddings.weight": (figures.vocab, figures.hidden),
        "output_layer.weight": (figures.vocab, figures.hidden),
    }
    return shapes.get(rule.megatron, (figures.hidden,))


def shard_shape(rule: Rule, figures: Figures, tp_size: int) -> tuple[int, ...]:
    shape = list(full_shape(rule, figures))
    if rule.tp_dim is not None:
        shape[rule.tp_dim] //= tp_size
    return tuple(shape)
