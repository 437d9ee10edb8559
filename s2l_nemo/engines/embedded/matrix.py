"""Linear layers that read the same input as one matrix. Axes: B rows, N outputs, K inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import linear
from typing_extensions import Self


class Matrix:
    """x -> x weight^T + bias."""

    def __init__(self, weight_NK: torch.Tensor, bias_N: torch.Tensor | None) -> None:
        self._weight_NK, self._bias_N = weight_NK, bias_N
        self.pack()

    @classmethod
    def of(cls, layers: Sequence[torch.nn.Linear]) -> Self:
        """All outputs of all layers. Their parameters become parts of the matrix's."""
        if len(layers) == 1:  # perhaps tied to the embedding
            return cls(layers[0].weight, layers[0].bias)
        biases: list[torch.Tensor] = [layer.bias for layer in layers if layer.bias is not None]
        return cls(joined([layer.weight for layer in layers]), joined(biases) if biases else None)

    @property
    def outputs(self) -> int:
        """N."""
        return len(self._weight_NK)

    def pack(self) -> None:
        """Follows the weight as it is now, where a matrix keeps a copy of it in another form. This one does not."""

    def __call__(self, x_BK: torch.Tensor) -> torch.Tensor:
        """[B, N]."""
        return linear(x_BK, self._weight_NK, self._bias_N)

    def added(self, y_BN: torch.Tensor, x_BK: torch.Tensor) -> torch.Tensor:
        """[B, N]: y + the product."""
        if self._bias_N is not None:
            y_BN = y_BN + self._bias_N
        return torch.addmm(y_BN, x_BK, self._weight_NK.t())


def joined(parameters: Sequence[torch.Tensor]) -> torch.Tensor:
    """All of them one after the other. They become parts of it."""
    whole = torch.cat([parameter.data for parameter in parameters])
    for parameter, part in zip(parameters, whole.split([len(one) for one in parameters]), strict=True):
        parameter.data = part
    return whole
