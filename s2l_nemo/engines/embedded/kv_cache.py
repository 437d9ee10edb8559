"""A preallocated KV cache with one slot per sequence. Axes: R rows (slots), H KV heads, L columns, D head size."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache, DynamicCache


class SlotCache(Cache):  # type: ignore[misc]  # transformers is not checked
    """Keys and values of up to `rows` sequences of up to `capacity` tokens.

    A sequence's token at position p is in column p of its slot. So sequences of any length decode together, and a row
    may be replaced by another at any step. Slots 0..n-1 are in use; the caller keeps them dense with `move`.
    """

    def __init__(self, rows: int, capacity: int) -> None:
        super().__init__()
        self._rows = rows
        self._capacity = capacity
        self._layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._slots_B = torch.empty(0, dtype=torch.long)
        self._columns_B = torch.empty(0, dtype=torch.long)
        self._length = 0

    def insert(self, prompts: DynamicCache, row: int, slots: list[int], start: int) -> None:
        """Copies columns `start`.. of one row of a prefilled cache to column 0.. of each of `slots`."""
        for layer, (keys_RHLD, values_RHLD) in enumerate(zip(prompts.key_cache, prompts.value_cache, strict=True)):
            if layer == len(self._layers):  # the model, not its config, says how large keys and values are
                self._layers.append((self._allocate(keys_RHLD), self._allocate(values_RHLD)))
            for ours, theirs in zip(self._layers[layer], (keys_RHLD, values_RHLD), strict=True):
                prompt_HLD = theirs[row, :, start:]
                ours[slots, :, : prompt_HLD.size(1)] = prompt_HLD

    def move(self, sources: list[int], targets: list[int], length: int) -> None:
        """Copies the first `length` columns of slots `sources` to slots `targets`."""
        for layer in self._layers:
            for states_RHLD in layer:
                states_RHLD[targets, :, :length] = states_RHLD[sources, :, :length]

    def at(self, columns_B: torch.Tensor, length: int) -> SlotCache:
        """Readies the next forward pass: row b writes column `columns_B[b]`; all read the first `length` columns."""
        self._slots_B = torch.arange(columns_B.numel(), device=columns_B.device)
        self._columns_B = columns_B
        self._length = length
        return self

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, cache_kwargs: Any = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores one token's keys and values per row; returns all of each row's as [B, H, length, D] views."""
        keys_RHLD, values_RHLD = self._layers[layer_idx]
        keys_RHLD[self._slots_B, :, self._columns_B] = key_states.squeeze(2)
        values_RHLD[self._slots_B, :, self._columns_B] = value_states.squeeze(2)
        rows = self._slots_B.numel()
        return keys_RHLD[:rows, :, : self._length], values_RHLD[:rows, :, : self._length]

    def get_seq_length(self, layer_idx: int | None = 0) -> int:
        """Tokens before the one that the next forward pass reads."""
        return self._length - 1

    def get_max_cache_shape(self) -> int:
        """Tokens that a sequence may have."""
        return self._capacity

    def _allocate(self, like_RHLD: torch.Tensor) -> torch.Tensor:
        heads, size = like_RHLD.size(1), like_RHLD.size(3)
        # Zeros: columns past a row's end are masked, yet 0 * NaN left over in memory would still be NaN.
        return like_RHLD.new_zeros(self._rows, heads, self._capacity, size)
