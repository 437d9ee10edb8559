"""A matrix of a CPU, kept once more in a form that its products read fast. Axes: B rows, N outputs, K inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from s2l_nemo.engines.embedded import products
from s2l_nemo.engines.embedded.compiled import F32, Numbers, numbers, processor_has
from s2l_nemo.engines.embedded.matrix import Matrix

_BLOCKS_FROM = 2**18  # elements. Smaller ones stay in a core's cache: there oneDNN's blocks cost more than they save
_FEW_ROWS = 16  # for which a processor with AMX reads panels, too: memory is the limit, not arithmetic
_HAS_AMX = processor_has("amx-bf16")


class CpuMatrix(Matrix):
    """With AVX-512 or AVX2 its products are `products`. Where AMX multiplies bfloat16, those of many rows are oneDNN's.

    So are all where neither is. oneDNN's read a weight that lies in blocks (`torch.ops.mkldnn`, which torch's own
    compiler uses for frozen weights): with a plain one they take up to three times as long.
    """

    def __init__(self, weight_NK: torch.Tensor, bias_N: torch.Tensor | None) -> None:
        self.panels_PX: Numbers | None = None
        self._blocks: torch.Tensor | None = None
        super().__init__(weight_NK, bias_N)

    def pack(self) -> None:
        """See `Matrix.pack`."""
        weight_NK = self._weight_NK.detach()
        if products.fits(weight_NK):
            products.multiply_for(weight_NK.dtype)  # which compiles it before there is anything to multiply
            panels_PX = numbers(products.panels(weight_NK))
            if self.panels_PX is None:
                self.panels_PX = panels_PX
            else:
                self.panels_PX[...] = panels_PX
        self._wide_bias_N = np.empty(0, np.float32) if self._bias_N is None else self._bias_N.detach().float().numpy()
        if _wants_blocks(weight_NK) and (self.panels_PX is None or _amx(weight_NK)):
            self._blocks = torch.ops.mkldnn._reorder_linear_weight(weight_NK)

    def multiply(self, x_BK: Numbers, out_BN: F32) -> None:
        """out = the product, whatever the kind of x and the weight."""
        few = len(x_BK) <= _FEW_ROWS or not _amx(self._weight_NK)
        if self.panels_PX is not None and few:
            products.multiply_for(self._weight_NK.dtype)(x_BK, self.panels_PX, self._wide_bias_N, out_BN)
            return
        x = torch.from_numpy(x_BK).view(self._weight_NK.dtype)
        if self._blocks is None:
            product = self(x)
        else:
            product = torch.ops.mkldnn._linear_pointwise(x, self._blocks, self._bias_N, "none", [], "")
        torch.from_numpy(out_BN).copy_(product)


def put_side_by_side(matrices: Sequence[CpuMatrix]) -> None:
    """Moves all panels to one piece of memory. They stay there when the matrices are packed anew."""
    packed = [matrix for matrix in matrices if matrix.panels_PX is not None]
    rooms = products.room_for([matrix.panels_PX for matrix in packed if matrix.panels_PX is not None])
    for matrix, room_PX in zip(packed, rooms, strict=True):
        room_PX[...] = matrix.panels_PX
        matrix.panels_PX = room_PX  # which frees the old one before the next room takes memory


def _amx(tensor: torch.Tensor) -> bool:
    return _HAS_AMX and tensor.dtype == torch.bfloat16


def _wants_blocks(weight_NK: torch.Tensor) -> bool:
    if weight_NK.numel() < _BLOCKS_FROM or not torch.backends.mkldnn.is_available():
        return False
    return weight_NK.dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
