"""One new token a row through a model that is made like Llama, with few operations.

transformers' own forward pass has about 40 operations and 20 module calls a layer, and reads the same input with
several matrices. For a small model that is most of the time of a token. Axes: B rows, H hidden, Q query heads, K
key-value heads, D head size, F feed-forward.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch.nn.functional import silu
from transformers import LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM

from s2l_nemo.engines.embedded.kv_cache import KVCache, SlotCache
from s2l_nemo.engines.embedded.matrix import Matrix, joined

_MADE_LIKE_LLAMA = (LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
AnyMatrix = TypeVar("AnyMatrix", bound=Matrix)


@dataclass(frozen=True)
class Layer(Generic[AnyMatrix]):
    """Weights of a layer. Those of the norms of a query and of a key, if there are such, are one tensor."""

    norm_H: torch.Tensor
    qkv: AnyMatrix
    head_norm_2D: torch.Tensor | None
    out: AnyMatrix
    norm_2_H: torch.Tensor
    gate_up: AnyMatrix
    down: AnyMatrix

    @classmethod
    def of(cls, layer: Any, matrix: type[AnyMatrix]) -> Layer[AnyMatrix]:
        """Of a layer of transformers, whose parameters become parts of the joined ones."""
        attention, mlp = layer.self_attn, layer.mlp
        head_norm = None
        if hasattr(attention, "q_norm"):
            head_norm = joined([attention.q_norm.weight, attention.k_norm.weight]).view(2, -1)
        return cls(
            norm_H=layer.input_layernorm.weight,
            qkv=matrix.of([attention.q_proj, attention.k_proj, attention.v_proj]),
            head_norm_2D=head_norm,
            out=matrix.of([attention.o_proj]),
            norm_2_H=layer.post_attention_layernorm.weight,
            gate_up=matrix.of([mlp.gate_proj, mlp.up_proj]),
            down=matrix.of([mlp.down_proj]),
        )


class Decoder(ABC, Generic[AnyMatrix]):
    """The weights of a model, those that read the same input joined into one matrix.

    The model's parameters become parts of the joined ones, so a weight that is copied into the model is in both. After
    that, `pack` is due.
    """

    def __init__(self, model: Any, matrix: type[AnyMatrix]) -> None:
        config, body = model.config, model.model
        self._head_size: int = body.layers[0].self_attn.head_dim
        self._queries: int = config.num_attention_heads
        self._key_values: int = config.num_key_value_heads
        self._eps: float = config.rms_norm_eps
        self._embed, self._rotary, self._norm = body.embed_tokens, body.rotary_emb, body.norm
        self._head = matrix.of([model.lm_head])
        self._layers = [Layer.of(layer, matrix) for layer in body.layers]

    def pack(self) -> None:
        """Follows new weights; see `Matrix.pack`."""
        for matrix in self._matrices:
            matrix.pack()

    @property
    def _matrices(self) -> list[AnyMatrix]:
        parts = [part for layer in self._layers for part in (layer.qkv, layer.out, layer.gate_up, layer.down)]
        return [*parts, self._head]

    @abstractmethod
    def new_cache(self, rows: int, limit: int) -> KVCache:
        """An empty cache of the kind that `__call__` takes, for up to `rows` sequences of up to `limit` tokens."""

    @abstractmethod
    def __call__(self, tokens_B: torch.Tensor, positions_B: torch.Tensor, cache: KVCache) -> torch.Tensor:
        """Logits [B, V] after the tokens. `cache` is ready for them: see its `at`."""


def fits(model: Any) -> bool:
    """Whether a `Decoder` can run it: not if it is of another kind, or reads a window of tokens only."""
    windows = getattr(model.config, "use_sliding_window", False)
    return type(model) in _MADE_LIKE_LLAMA and not windows and model.config.hidden_act == "silu"


class TorchDecoder(Decoder[Matrix]):
    """For any device and any kind of numbers."""

    def __init__(self, model: Any) -> None:
        super().__init__(model, Matrix)
        self._eps_tensor = torch.tensor(self._eps, device=model.device)

    def new_cache(self, rows: int, limit: int) -> KVCache:
        """See `Decoder.new_cache`."""
        return SlotCache(rows, limit)

    def __call__(self, tokens_B: torch.Tensor, positions_B: torch.Tensor, cache: KVCache) -> torch.Tensor:
        """See `Decoder`."""
        assert isinstance(cache, SlotCache)
        x_BH: torch.Tensor = self._embed(tokens_B[:, None])[:, 0]
        cos_B1D, sin_B1D = (part.transpose(0, 1) for part in self._rotary(x_BH, positions_B[None]))
        half = self._head_size // 2
        # x cos + rotate_half(x) sin, where rotate_half moves a half and turns the sign of the second one
        sin_B1D = torch.cat([-sin_B1D[..., :half], sin_B1D[..., half:]], dim=-1)
        rotated = self._queries + self._key_values
        is_key_N = (torch.arange(rotated, device=x_BH.device) >= self._queries).long()
        for index, layer in enumerate(self._layers):
            y_BH = _normed(x_BH, layer.norm_H, self._eps_tensor)
            heads_BND = layer.qkv(y_BH).unflatten(1, (-1, self._head_size))
            turned_BND = heads_BND[:, :rotated]
            if layer.head_norm_2D is not None:  # of a query and of a key
                turned_BND = _normed(turned_BND, layer.head_norm_2D.index_select(0, is_key_N), self._eps_tensor)
            turned_BND = torch.addcmul(turned_BND * cos_B1D, turned_BND.roll(half, -1), sin_B1D)
            query_BQD, key_BKD = turned_BND[:, : self._queries], turned_BND[:, self._queries :]
            out_BH = cache.attend(index, query_BQD, key_BKD, heads_BND[:, rotated:])
            x_BH = layer.out.added(x_BH, out_BH)
            y_BH = _normed(x_BH, layer.norm_2_H, self._eps_tensor)
            gate_BF, up_BF = layer.gate_up(y_BH).chunk(2, dim=1)
            x_BH = layer.down.added(x_BH, silu(gate_BF).mul_(up_BF))
        y_BH = _normed(x_BH, self._norm.weight, self._eps_tensor)
        return self._head(y_BH)


def _normed(x: torch.Tensor, weight: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """RMSNorm over the last axis, in float32 until the weight."""
    wide = x.float()
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    return (wide * torch.addcmul(eps, length, length, value=1 / x.size(-1)).rsqrt_()).to(x.dtype).mul_(weight)
