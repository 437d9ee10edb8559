"""The decoder on a CPU: torch multiplies matrices, `kernels` do all between them.

Axes: B rows, H hidden, F feed-forward, Q query heads, K key-value heads, N = Q + 2 K, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from s2l_nemo.engines.embedded.compiled import F32, Numbers
from s2l_nemo.engines.embedded.decoder import Decoder
from s2l_nemo.engines.embedded.kernels import KERNELS
from s2l_nemo.engines.embedded.kv_cache import KVCache
from s2l_nemo.engines.embedded.shared_cache import SharedCache


@dataclass(frozen=True)
class _Norms:
    """Weights of a layer's norms in float32."""

    before_H: F32
    heads_2D: F32  # of a query and of a key; of size 0 if there are none
    between_H: F32


class CpuDecoder(Decoder):
    """All is float32 but the inputs and outputs of the matrix products, which are numbers of the weights' kind."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._kernels = KERNELS[model.dtype]
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
        embedded_BH: torch.Tensor = self._embed(tokens_B[:, None])[:, 0]
        x_BH = embedded_BH.float()
        cos_BD, sin_BD = (part[0].numpy() for part in self._rotary(x_BH, positions_B[None]))
        eps, x, y_BH, does = np.float32(self._eps), x_BH.numpy(), torch.empty_like(embedded_BH), self._kernels
        y, delta = _numbers(y_BH), _numbers(torch.zeros_like(embedded_BH))
        heads_BND = x_BH.new_empty(len(x), self._queries + 2 * self._key_values, self._head_size)
        heads = heads_BND.numpy()
        for index, (layer, norms) in enumerate(zip(self._layers, self._norms, strict=True)):
            does.add_norm(x, delta, norms.before_H, eps, y)
            does.turn(_numbers(layer.qkv(y_BH)), norms.heads_2D, eps, cos_BD, sin_BD, self._queries, heads)
            out_BX = cache.attend(index, heads_BND).to(y_BH.dtype)
            does.add_norm(x, _numbers(layer.out(out_BX)), norms.between_H, eps, y)
            gate_up_BX = layer.gate_up(y_BH)
            inner_BF = gate_up_BX.new_empty(len(x), gate_up_BX.size(1) // 2)
            does.gate(_numbers(gate_up_BX), _numbers(inner_BF))
            delta = _numbers(layer.down(inner_BF))
        does.add_norm(x, delta, self._last_norm_H, eps, y)
        return self._head(y_BH)

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


def _numbers(tensor: torch.Tensor) -> Numbers:
    """The tensor's own numbers, for a kernel."""
    array: Numbers = (tensor if tensor.dtype == torch.float32 else tensor.view(torch.uint16)).numpy()
    return array
