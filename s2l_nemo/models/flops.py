"""FLOP of forward passes, counted by one formula in runs (`total/flops`), in the planner and in its simulation.

They are those of matrix multiplications and of causal attention, two for a multiplication with its addition. What is
computed again (activation checkpointing, logits in the backward pass) is left to who counts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from s2l_nemo.models.shape import ModelShape

UPDATE_PASSES = 3  # forward passes' work of an update: the backward pass has two products where the forward has one


@dataclass(frozen=True)
class ForwardFlops:
    """FLOP of one forward pass."""

    layers: float
    output: float  # of the output layer

    @property
    def whole(self) -> float:
        return self.layers + self.output


def flops_of(shape: ModelShape, *, tokens: float, pairs: float, targets: float) -> ForwardFlops:
    """FLOP of a forward pass over `tokens`.

    `pairs` are those of a token and one that it sees. `targets` are the tokens that the output layer sees.
    Layers: 2·tokens·layers·(2hq + 2h·kv + 3h·ffn) + 4·layers·pairs·q. Output: 2·targets·hV.
    """
    layer = 2 * shape.hidden * shape.query + 2 * shape.hidden * shape.kv + 3 * shape.hidden * shape.ffn
    return ForwardFlops(
        layers=2 * tokens * shape.layers * layer + 4 * shape.layers * pairs * shape.query,
        output=2 * targets * shape.embedding_parameters,
    )


def group_flops(shape: ModelShape, prompt: int, lengths: Sequence[int], copies: float = 1.0) -> ForwardFlops:
    """FLOP of a forward pass over a prompt of `prompt` tokens and responses of these `lengths` to it.

    The prompt is computed `copies` times. The output layer sees the tokens of the responses.
    """
    targets = sum(lengths)
    return flops_of(
        shape,
        tokens=copies * prompt + targets,
        pairs=copies * prompt**2 / 2 + sum(length * (prompt + length / 2) for length in lengths),
        targets=targets,
    )
