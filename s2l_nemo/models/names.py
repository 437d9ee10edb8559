"""Names and layouts of Qwen3, InternLM2.5 and Llama in Hugging Face and in Megatron-core: one declarative table.

Import, export and the live reshard of a running actor read it; nothing writes to it. Megatron names are those of
checkpoints and of Transformer Engine layers; `local` is the name in local (torch) layers where it differs. Sources:
transformers `modeling_qwen3.py`, InternLM2's `modeling_internlm2.py`, megatron-core `gpt_layer_specs.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from s2l_nemo.models.shape import Family, ModelShape
from s2l_nemo.models.formats.rows import S, take

Operation = Literal["copy", "qkv", "gate_up"]


@dataclass(frozen=True)
class Rule:
    """One Megatron tensor and the Hugging Face tensors that it is made of, relative to the layer."""

    megatron: str
    hf: tuple[str, ...]
    operation: Operation = "copy"
    tp_dim: int | None = None  # dimension that tensor parallelism cuts; None: replicated
    local: str | None = None

    def local_name(self) -> str:
        return self.local or self.megatron


@dataclass(frozen=True)
class Table:
    """All tensors of a family. `hf_layer` is the Hugging Face prefix of layer `{n}`."""

    embedding: Rule
    layer: tuple[Rule, ...]
    final_norm: Rule
    output: Rule
    hf_layer: str = "model.layers.{n}."


INPUT_NORM = "self_attention.linear_qkv.layer_norm_weight", "input_layernorm.weight"
QKV = "self_attention.linear_qkv.weight"
Q_NORM, K_NORM = "self_attention.q_layernorm.weight", "self_attention.k_layernorm.weight"
PROJECTION = "self_attention.linear_proj.weight"
MLP_NORM = "mlp.linear_fc1.layer_norm_weight", "pre_mlp_layernorm.weight"
GATE_UP, DOWN = "mlp.linear_fc1.weight", "mlp.linear_fc2.weight"
EMBEDDING, FINAL_NORM, OUTPUT = (
    "embedding.word_embeddings.weight",
    "decoder.final_layernorm.weight",
    "output_layer.weight",
)

QWEN3 = Table(
    embedding=Rule(EMBEDDING, ("model.embed_tokens.weight",), tp_dim=0),
    layer=(
        Rule(INPUT_NORM[0], ("input_layernorm.weight",), local=INPUT_NORM[1]),
        Rule(QKV, ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"), "qkv", 0),
        Rule(Q_NORM, ("self_attn.q_norm.weight",)),
        Rule(K_NORM, ("self_attn.k_norm.weight",)),
        Rule(PROJECTION, ("self_attn.o_proj.weight",), tp_dim=1),
        Rule(MLP_NORM[0], ("post_attention_layernorm.weight",), local=MLP_NORM[1]),
        Rule(GATE_UP, ("mlp.gate_proj.weight", "mlp.up_proj.weight"), "gate_up", 0),
        Rule(DOWN, ("mlp.down_proj.weight",), tp_dim=1),
    ),
    final_norm=Rule(FINAL_NORM, ("model.norm.weight",)),
    output=Rule(OUTPUT, ("lm_head.weight",), tp_dim=0),
)
LLAMA = Table(
    QWEN3.embedding,
    tuple(rule for rule in QWEN3.layer if rule.megatron not in (Q_NORM, K_NORM)),
    QWEN3.final_norm,
    QWEN3.output,
)
INTERNLM2 = Table(
    embedding=Rule(EMBEDDING, ("model.tok_embeddings.weight",), tp_dim=0),
    layer=(
        Rule(INPUT_NORM[0], ("attention_norm.weight",), local=INPUT_NORM[1]),
        Rule(QKV, ("attention.wqkv.weight",), tp_dim=0),  # already laid out per KV group, as Megatron's
        Rule(PROJECTION, ("attention.wo.weight",), tp_dim=1),
        Rule(MLP_NORM[0], ("ffn_norm.weight",), local=MLP_NORM[1]),
        Rule(GATE_UP, ("feed_forward.w1.weight", "feed_forward.w3.weight"), "gate_up", 0),
        Rule(DOWN, ("feed_forward.w2.weight",), tp_dim=1),
    ),
    final_norm=Rule(FINAL_NORM, ("model.norm.weight",)),
    output=Rule(OUTPUT, ("output.weight",), tp_dim=0),
)
TABLES: Mapping[Family, Table] = MappingProxyType({"qwen3": QWEN3, "llama": LLAMA, "internlm2": INTERNLM2})


def fuse(rule: Rule, tensors: Sequence[tuple[S, ...]], shape: ModelShape) -> tuple[S, ...]:
    """The full (unsharded) Megatron tensor from the rule's Hugging Face tensors, as views.

    `qkv`: for each KV group its q heads, then its k head, then its v head. `gate_up`: all gate rows, then all up rows.
    """
    if rule.operation != "qkv":
        return tuple(part for rows in tensors for part in rows)
    q, k, v = tensors
    wide, narrow = shape.query // shape.kv_heads, shape.head_dim
    parts: list[S] = []
    for group in range(shape.kv_heads):
        parts += take(q, group * wide, (group + 1) * wide)
        parts += take(k, group * narrow, (group + 1) * narrow)
        parts += take(v, group * narrow, (group + 1) * narrow)
    return tuple(parts)


def split(rule: Rule, full: tuple[S, ...], shape: ModelShape) -> tuple[tuple[S, ...], ...]:
    """Inverse of `fuse`: the Hugging Face tensors of the rule, in its order, as views of the full Megatron tensor."""
    if rule.operation == "gate_up":
        return take(full, 0, shape.ffn), take(full, shape.ffn, 2 * shape.ffn)
    if rule.operation == "copy":
        return (full,)
    wide, narrow = shape.query // shape.kv_heads, shape.head_dim
    q: list[S] = []
    k: list[S] = []
    v: list[S] = []
    for start in range(0, shape.kv_heads * (wide + 2 * narrow), wide + 2 * narrow):
        q += take(full, start, start + wide)
        k += take(full, start + wide, start + wide + narrow)
        v += take(full, start + wide + narrow, start + wide + 2 * narrow)
    return tuple(q), tuple(k), tuple(v)


def full_shape(rule: Rule, shape: ModelShape) -> tuple[int, ...]:
    """Shape of the unsharded Megatron tensor."""
    shapes: Mapping[str, tuple[int, ...]] = {
        QKV: (shape.query + 2 * shape.kv, shape.hidden),
        Q_NORM: (shape.head_dim,),
        K_NORM: (shape.head_dim,),
        PROJECTION: (shape.hidden, shape.query),
        GATE_UP: (2 * shape.ffn, shape.hidden),
        DOWN: (shape.hidden, shape.ffn),
        EMBEDDING: (shape.vocab, shape.hidden),
        OUTPUT: (shape.vocab, shape.hidden),
    }
    return shapes.get(rule.megatron, (shape.hidden,))


def hf_shapes(rule: Rule, shape: ModelShape) -> tuple[tuple[int, ...], ...]:
    """Shapes of the rule's Hugging Face tensors, in its order."""
    if rule.operation == "qkv":
        return (shape.query, shape.hidden), (shape.kv, shape.hidden), (shape.kv, shape.hidden)
    if rule.operation == "gate_up":
        return ((shape.ffn, shape.hidden),) * 2
    return (full_shape(rule, shape),)


def hf_fields(rule: Rule) -> tuple[str, ...]:
    """The fields of config.json that give `hf_shapes`, for messages."""
    query, kv = "num_attention_heads x head_dim", "num_key_value_heads x head_dim"
    if rule.operation == "qkv":
        return f"{query}, hidden_size", f"{kv}, hidden_size", f"{kv}, hidden_size"
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
