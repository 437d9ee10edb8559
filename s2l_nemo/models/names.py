"""The names of every tensor of a model in Hugging Face and in Megatron-core: one table for each layout of names.

Import, export and the live reshard of a running actor read these tables. Nothing writes to them. The Megatron names are
those of checkpoints and of Transformer Engine layers. `local` is the name in local (torch) layers, if it is another
one. Sources: transformers `modeling_qwen3.py` and `modeling_qwen2.py`, InternLM2's `modeling_internlm2.py`,
megatron-core `gpt_layer_specs.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from typing_extensions import assert_never


class Operation(Enum):
    """How a Megatron tensor is made of Hugging Face tensors."""

    COPY = "copy"  # it is the one tensor
    QKV = "qkv"  # of queries, keys and values: for each KV group its q heads, then its k head, then its v head
    GATE_UP = "gate_up"  # of gate and up: all gate rows, then all up rows


@dataclass(frozen=True)
class Rule:
    """One Megatron tensor and the Hugging Face tensors that it is made of. Names are relative to the layer."""

    megatron: str
    hf: tuple[str, ...]
    operation: Operation = Operation.COPY
    tp_dim: int | None = None  # the dimension that tensor parallelism cuts; None: every rank has the whole tensor
    local: str | None = None

    def local_name(self) -> str:
        return self.local or self.megatron

    @property
    def blocks(self) -> int:
        """Blocks of rows that tensor parallelism cuts one by one: gate and up lie in one tensor."""
        match self.operation:
            case Operation.COPY | Operation.QKV:
                return 1
            case Operation.GATE_UP:
                return 2
            case _:
                assert_never(self.operation)


@dataclass(frozen=True)
class Table:
    """All tensors of a model. `hf_layer` is the Hugging Face prefix of layer `{n}`."""

    embedding: Rule
    layer: tuple[Rule, ...]
    final_norm: Rule
    output: Rule
    hf_layer: str = "model.layers.{n}."


INPUT_NORM = "self_attention.linear_qkv.layer_norm_weight", "input_layernorm.weight"
QKV, QKV_BIAS = "self_attention.linear_qkv.weight", "self_attention.linear_qkv.bias"
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
        Rule(QKV, ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"), Operation.QKV, 0),
        Rule(Q_NORM, ("self_attn.q_norm.weight",)),
        Rule(K_NORM, ("self_attn.k_norm.weight",)),
        Rule(PROJECTION, ("self_attn.o_proj.weight",), tp_dim=1),
        Rule(MLP_NORM[0], ("post_attention_layernorm.weight",), local=MLP_NORM[1]),
        Rule(GATE_UP, ("mlp.gate_proj.weight", "mlp.up_proj.weight"), Operation.GATE_UP, 0),
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
_QKV_BIAS = Rule(
    QKV_BIAS, ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"), Operation.QKV, 0
)
QWEN2 = Table(
    LLAMA.embedding,
    (*LLAMA.layer[:2], _QKV_BIAS, *LLAMA.layer[2:]),  # after its weight
    LLAMA.final_norm,
    LLAMA.output,
)
INTERNLM2 = Table(
    embedding=Rule(EMBEDDING, ("model.tok_embeddings.weight",), tp_dim=0),
    layer=(
        Rule(INPUT_NORM[0], ("attention_norm.weight",), local=INPUT_NORM[1]),
        Rule(QKV, ("attention.wqkv.weight",), tp_dim=0),  # already laid out per KV group, as Megatron's
        Rule(PROJECTION, ("attention.wo.weight",), tp_dim=1),
        Rule(MLP_NORM[0], ("ffn_norm.weight",), local=MLP_NORM[1]),
        Rule(GATE_UP, ("feed_forward.w1.weight", "feed_forward.w3.weight"), Operation.GATE_UP, 0),
        Rule(DOWN, ("feed_forward.w2.weight",), tp_dim=1),
    ),
    final_norm=Rule(FINAL_NORM, ("model.norm.weight",)),
    output=Rule(OUTPUT, ("output.weight",), tp_dim=0),
)
