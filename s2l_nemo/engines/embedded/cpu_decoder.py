"""The decoder on a CPU: a step is `kernels`, and matrix products of `cpu_matrix`.

Axes: B rows, H hidden, F feed-forward, Q query heads, K key-value heads, N = Q + 2 K, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from s2l_nemo.engines.embedded.compiled import F32, Numbers, numbers, share_threads
from s2l_nemo.engines.embedded.cpu_matrix import CpuMatrix, put_side_by_side
from s2l_nemo.engines.embedded.decoder import Decoder
from s2l_nemo.engines.embedded.kernels import Kernels, turn
from s2l_nemo.engines.embedded.kv_cache import KVCache
from s2l_nemo.engines.embedded.shared_cache import SharedCache


@dataclass(frozen=True)
class _Norms:
    """Weights of a layer's norms in float32."""

    before_H: F32
    heads_2D: F32  # of a query and of a key; of size 0 if there are none
    between_H: F32


@dataclass(frozen=True)
class _Room:
    """What a step computes on its way through a layer."""

    y_BH: Numbers  # normed
    qkv_BX: F32
    heads_BND: F32
    attended_BX: Numbers
    delta_BH: F32  # to add to the residual stream
    gate_up_BX: F32
    inner_BF: Numbers


class CpuDecoder(Decoder[CpuMatrix]):
    """All is float32 but the inputs of the matrix products, which are numbers of the weights' kind."""

    def __init__(self, model: Any) -> None:
        super().__init__(model, CpuMatrix)
        put_side_by_side(self._matrices)
        self._kind: np.dtype[Any] = numbers(torch.empty(0, dtype=model.dtype)).dtype
        Kernels.of(self._kind)  # which compiles them before there is anything to decode
        self._follow_norms()

    def pack(self) -> None:
        """See `Decoder.pack`."""
        super().pack()
        self._follow_norms()

    def new_cache(self, rows: int, limit: int) -> KVCache:
        """See `Decoder.new_cache`."""
        return SharedCache(rows, limit)

    def __call__(self, tokens_B: torch.Tensor, positions_B: torch.Tensor, cache: KVCache) -> torch.Tensor:
        """See `Decoder`."""
        assert isinstance(cache, SharedCache)
        share_threads()
        embedded_BH: torch.Tensor = self._embed(tokens_B[:, None])[:, 0]
        x_BH = embedded_BH.float()
        cos_BD, sin_BD = (part[0].numpy() for part in self._rotary(x_BH, positions_B[None]))
        room, x, eps = self._room(len(x_BH)), x_BH.numpy(), np.float32(self._eps)
        does, y, delta = Kernels.of(self._kind), room.y_BH, room.delta_BH
        delta.fill(0)
        for index, (layer, norms) in enumerate(zip(self._layers, self._norms, strict=True)):
            does.add_norm(x, delta, norms.before_H, eps, y)
            layer.qkv.multiply(y, room.qkv_BX)
            turn(room.qkv_BX, norms.heads_2D, eps, cos_BD, sin_BD, self._queries, room.heads_BND)
            cache.attend(index, room.heads_BND, room.attended_BX)
            layer.out.multiply(room.attended_BX, delta)
            does.add_norm(x, delta, norms.between_H, eps, y)
            layer.gate_up.multiply(y, room.gate_up_BX)
            does.gate(room.gate_up_BX, room.inner_BF)
            layer.down.multiply(room.inner_BF, delta)
        does.add_norm(x, delta, self._last_norm_H, eps, y)
        logits_BV = x_BH.new_empty(len(x), self._head.outputs)
        self._head.multiply(y, logits_BV.numpy())
        return logits_BV

    def _room(self, rows: int) -> _Room:
        layer, all_heads, kind = self._layers[0], self._queries + 2 * self._key_values, self._kind
        return _Room(
            y_BH=np.empty((rows, layer.out.outputs), kind),
            qkv_BX=np.empty((rows, layer.qkv.outputs), np.float32),
            heads_BND=np.empty((rows, all_heads, self._head_size), np.float32),
            attended_BX=np.empty((rows, self._queries * self._head_size), kind),
            delta_BH=np.empty((rows, layer.out.outputs), np.float32),
            gate_up_BX=np.empty((rows, layer.gate_up.outputs), np.float32),
            inner_BF=np.empty((rows, layer.gate_up.outputs // 2), kind),
        )

    def _follow_norms(self) -> None:
        none_0D = torch.empty(0, self._head_size)
        self._norms = [
            _Norms(
                before_H=_wide(layer.norm_H),
                heads_2D=_wide(none_0D if layer.head_norm_2D is None else layer.head_norm_2D),
                between_H=_wide(layer.norm_2_H),
            )
            for layer in self._layers
        ]
        self._last_norm_H = _wide(self._norm.weight)


def _wide(weight: torch.Tensor) -> F32:
    array: F32 = weight.detach().float().numpy()
    return array
