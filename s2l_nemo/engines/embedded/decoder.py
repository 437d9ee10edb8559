"""One new token a row through a model that is made like Llama, with few operations.

transformers' own forward pass has about 40 operations and 20 module calls a layer, and reads the same input with
several matrices. For a small model that is most of the time of a token. Axes: B rows, H hidden, Q query heads, K
key-value heads, D head size, F feed-forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import linear, silu
from transformers import LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM

from s2l_nemo.engines.embedded.kv_cache import SlotCache
from s2l_nemo.engines.embedded.shared_cache import SharedCache

MADE_LIKE_LLAMA = (LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)


class Decoder:
    """The weights of a model, those that read the same input joined into one matrix.

    The model's parameters become parts of the joined ones, so a weight that is copied into the model is in both.
    """

    def __init__(self, model: Any) -> None:
        config, body = model.config, model.model
        self._head_size: int = body.layers[0].self_attn.head_dim
        self._queries: int = config.num_attention_heads
        self._key_values: int = config.num_key_value_heads
        self._eps = torch.tensor(config.rms_norm_eps, device=model.device)
        self._embed, self._rotary, self._norm, self._head = body.embed_tokens, body.rotary_emb, body.norm, model.lm_head
        self._layers = [_Layer.of(layer) for layer in body.layers]

    @classmethod
    def of(cls, model: Any) -> Decoder | None:
        """None if the model is of another kind, or reads a window of tokens only."""
        windows = getattr(model.config, "use_sliding_window", False)
        if type(model) not in MADE_LIKE_LLAMA or windows or model.config.hidden_act != "silu":
            return None
        return cls(model)

    def __call__(
        self, tokens_B: torch.Tensor, positions_B: torch.Tensor, cache: SlotCache | SharedCache
    ) -> torch.Tensor:
        """Logits [B, V] after the tokens. `cache` is ready for them: see its `at`."""
        x_BH: torch.Tensor = self._embed(tokens_B[:, None])[:, 0]
        cos_B1D, sin_B1D = (part.transpose(0, 1) for part in self._rotary(x_BH, positions_B[None]))
        half = self._head_size // 2
        # x cos + rotate_half(x) sin, where rotate_half moves a half and turns the sign of the second one
        sin_B1D = torch.cat([-sin_B1D[..., :half], sin_B1D[..., half:]], dim=-1)
        rotated = self._queries + self._key_values
        is_key_N = (torch.arange(rotated, device=x_BH.device) >= self._queries).long()
        for index, layer in enumerate(self._layers):
            y_BH = _normed(x_BH, layer.norm_H, self._eps)
            heads_BND = linear(y_BH, layer.qkv_NH, layer.qkv_bias_N).unflatten(1, (-1, self._head_size))
            turned_BND = heads_BND[:, :rotated]
            if layer.head_norm_2D is not None:  # of a query and of a key
                turned_BND = _normed(turned_BND, layer.head_norm_2D.index_select(0, is_key_N), self._eps)
            turned_BND = torch.addcmul(turned_BND * cos_B1D, turned_BND.roll(half, -1), sin_B1D)
            query_BQD, key_BKD = turned_BND[:, : self._queries], turned_BND[:, self._queries :]
            out_BH = cache.attend(index, query_BQD, key_BKD, heads_BND[:, rotated:])
            x_BH = _added(x_BH, out_BH, layer.out)
            y_BH = _normed(x_BH, layer.norm_2_H, self._eps)
            gate_BF, up_BF = linear(y_BH, layer.gate_up_FH, layer.gate_up_bias_F).chunk(2, dim=1)
            x_BH = _added(x_BH, silu(gate_BF).mul_(up_BF), layer.down)
        y_BH = _normed(x_BH, self._norm.weight, self._eps)
        logits_B1V: torch.Tensor = self._head(y_BH[:, None])
        return logits_B1V[:, 0]


@dataclass(frozen=True)
class _Layer:
    norm_H: torch.Tensor
    qkv_NH: torch.Tensor
    qkv_bias_N: torch.Tensor | None
    head_norm_2D: torch.Tensor | None
    out: torch.nn.Linear
    norm_2_H: torch.Tensor
    gate_up_FH: torch.Tensor
    gate_up_bias_F: torch.Tensor | None
    down: torch.nn.Linear

    @classmethod
    def of(cls, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        qkv, qkv_bias = _join([attention.q_proj, attention.k_proj, attention.v_proj])
        gate_up, gate_up_bias = _join([mlp.gate_proj, mlp.up_proj])
        head_norm = None
        if hasattr(attention, "q_norm"):
            head_norm = _joined([attention.q_norm.weight, attention.k_norm.weight]).view(2, -1)
        return cls(
            layer.input_layernorm.weight, qkv, qkv_bias, head_norm, attention.o_proj,
            layer.post_attention_layernorm.weight, gate_up, gate_up_bias, mlp.down_proj,
        )  # fmt: skip


def _join(projections: list[torch.nn.Linear]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """One matrix, and one bias, for all of them."""
    biases: list[torch.Tensor] = [projection.bias for projection in projections if projection.bias is not None]
    return _joined([projection.weight for projection in projections]), _joined(biases) if biases else None


def _joined(parameters: Sequence[torch.Tensor]) -> torch.Tensor:
    """All of them one after the other. They become parts of it."""
    whole = torch.cat([parameter.data for parameter in parameters])
    for parameter, part in zip(parameters, whole.split([len(one) for one in parameters]), strict=True):
        parameter.data = part
    return whole


def _normed(x: torch.Tensor, weight: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """RMSNorm over the last axis in float32, in fewer operations than torch's on a CPU."""
    wide = x.float()
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    return (wide * torch.addcmul(eps, length, length, value=1 / x.size(-1)).rsqrt_()).to(x.dtype).mul_(weight)


def _added(x_BH: torch.Tensor, y_BN: torch.Tensor, projection: torch.nn.Linear) -> torch.Tensor:
    """x + projection(y)."""
    if projection.bias is not None:
        x_BH = x_BH + projection.bias
    return torch.addmm(x_BH, y_BN, projection.weight.t())
