"""Linear layers that read the same input as one matrix, packed on a CPU as its caches like it.

Axes: B rows, N outputs, K inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import linear

_PACKED_FROM = 2**18  # elements. Smaller ones stay in a core's cache: there packing costs more than it saves


class Matrix:
    """x -> x weight^T + bias.

    For a few rows torch's product takes up to three times as long with a plain weight as with one that lies in blocks
    (`torch.ops.mkldnn`, which torch's own compiler uses for frozen weights).
    """

    def __init__(self, weight_NK: torch.Tensor, bias_N: torch.Tensor | None) -> None:
        self._weight_NK, self._bias_N = weight_NK, bias_N
        self._packed: torch.Tensor | None = None
        self.pack()

    @classmethod
    def of(cls, layers: Sequence[torch.nn.Linear]) -> Matrix:
        """All outputs of all layers. Their parameters become parts of the matrix's."""
        if len(layers) == 1:  # perhaps tied to the embedding
            return cls(layers[0].weight, layers[0].bias)
        biases: list[torch.Tensor] = [layer.bias for layer in layers if layer.bias is not None]
        return cls(joined([layer.weight for layer in layers]), joined(biases) if biases else None)

    def pack(self) -> None:
        """Packs the weight as it is now, which takes a copy of it. Does nothing where that does not help."""
        if _can_pack(self._weight_NK):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self._weight_NK.detach())

    def __call__(self, x_BK: torch.Tensor) -> torch.Tensor:
        """[B, N]."""
        if self._packed is None:
            return linear(x_BK, self._weight_NK, self._bias_N)
        product_BN: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x_BK, self._packed, self._bias_N, "none", [], "")
        return product_BN

    def added(self, y_BN: torch.Tensor, x_BK: torch.Tensor) -> torch.Tensor:
        """[B, N]: y + the product."""
        if self._packed is not None:
            return self(x_BK).add_(y_BN)
        if self._bias_N is not None:
            y_BN = y_BN + self._bias_N
        return torch.addmm(y_BN, x_BK, self._weight_NK.t())


def joined(parameters: Sequence[torch.Tensor]) -> torch.Tensor:
    """All of them one after the other. They become parts of it."""
    whole = torch.cat([parameter.data for parameter in parameters])
    for parameter, part in zip(parameters, whole.split([len(one) for one in parameters]), strict=True):
        parameter.data = part
    return whole


def _can_pack(weight_NK: torch.Tensor) -> bool:
    if weight_NK.device.type != "cpu" or weight_NK.numel() < _PACKED_FROM or not torch.backends.mkldnn.is_available():
        return False
    if weight_NK.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight_NK.dtype == torch.float32
