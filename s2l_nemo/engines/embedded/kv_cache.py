"""A KV cache with one slot per sequence. Axes: R rows (slots), H KV heads, L columns, D head size."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from transformers import Cache, DynamicCache

from s2l_nemo.engines.embedded.attention import grouped_attention

_COLUMNS = 64  # at least; beyond that the cache grows by a half


class KVCache(Protocol):
    """What the caches of all decoders do between two forward passes."""

    def insert(self, prompts: DynamicCache, row: int, slots: list[int], start: int) -> None:
        """Takes columns `start`.. of one row of a prefilled cache as the first tokens of each of `slots`."""

    def move(self, sources: list[int], targets: list[int], rows: int) -> None:
        """Moves the rows of slots `sources` to slots `targets`. Then slots 0..rows-1 are in use."""

    def at(self, positions: list[int]) -> None:
        """Readies the next forward pass, in which row b has its token at `positions[b]`."""


def additive_mask(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """To add to attention scores: 0 if visible, else the lowest finite number."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)


def grown(states_2RHLD: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The same with more rows and columns. New ones are 0: those past an end are masked, yet 0 * NaN would be NaN."""
    kinds, old_rows, heads, old_columns, size = states_2RHLD.shape
    larger = states_2RHLD.new_zeros(kinds, rows, heads, columns, size)
    larger[:, :old_rows, :, :old_columns] = states_2RHLD
    return larger


class SlotCache(Cache):  # type: ignore[misc]  # transformers is not checked
    """Keys and values of up to `rows` sequences of up to `limit` tokens.

    A sequence's token at position p is in column p of its slot. So sequences of any length decode together, and a row
    may be replaced by another at any step. Slots 0..n-1 are in use; the caller keeps them dense with `move`.

    Columns are taken as the longest sequence needs them: a high limit costs nothing until a sequence reaches it.
    """

    def __init__(self, rows: int, limit: int) -> None:
        super().__init__()
        self._rows = rows
        self._limit = limit
        self._layers: list[torch.Tensor] = []  # [2, R, H, columns, D]: keys, then values
        self._places = torch.empty(0, dtype=torch.long)  # of a new token's keys and values in a flat layer
        self._length = 0
        self.mask_B11L = torch.empty(0)  # to add to scores, of the forward pass that `at` has readied

    def insert(self, prompts: DynamicCache, row: int, slots: list[int], start: int) -> None:
        """Copies columns `start`.. of one row of a prefilled cache to column 0.. of each of `slots`."""
        for layer, (keys_RHLD, values_RHLD) in enumerate(zip(prompts.key_cache, prompts.value_cache, strict=True)):
            prompt_2HLD = torch.stack([keys_RHLD[row, :, start:], values_RHLD[row, :, start:]])
            if layer == len(self._layers):  # the model, not its config, says how large keys and values are
                self._layers.append(prompt_2HLD.new_zeros(2, self._rows, prompt_2HLD.size(1), 0, prompt_2HLD.size(3)))
            self._grow(layer, prompt_2HLD.size(2))
            self._layers[layer][:, slots, :, : prompt_2HLD.size(2)] = prompt_2HLD[:, None]
        self._length = max(self._length, prompts.key_cache[0].size(2) - start)

    def move(self, sources: list[int], targets: list[int], rows: int) -> None:
        """Copies slots `sources` to slots `targets`. Then slots 0..rows-1 are in use."""
        if targets:
            for states_2RHLD in self._layers:
                states_2RHLD[:, targets, :, : self._length] = states_2RHLD[:, sources, :, : self._length]

    def at(self, positions: list[int]) -> None:
        """Readies the next forward pass, in which row b has its token at `positions[b]`."""
        self._length = max(positions) + 1
        for layer in range(len(self._layers)):
            self._grow(layer, self._length)
        states_2RHLD = self._layers[0]
        device, (_, rows, heads, capacity, _) = states_2RHLD.device, states_2RHLD.shape
        columns_B = torch.tensor(positions, device=device)
        kinds_2, rows_B, heads_H = (torch.arange(n, device=device) for n in (2, len(positions), heads))
        lines_2BH = (kinds_2[:, None, None] * rows + rows_B[:, None]) * heads + heads_H
        self._places = (lines_2BH * capacity + columns_B[:, None]).view(-1)
        visible_BL = torch.arange(self._length, device=device) <= columns_B[:, None]
        self.mask_B11L = additive_mask(visible_BL, states_2RHLD.dtype)[:, None, None]

    def attend(
        self, layer: int, query_BQD: torch.Tensor, key_BHD: torch.Tensor, value_BHD: torch.Tensor
    ) -> torch.Tensor:
        """Stores the new keys and values. Returns [B, Q * D]: attention to all of each row's."""
        keys_BHLD, values_BHLD = self._append(layer, key_BHD, value_BHD)
        return grouped_attention(query_BQD, keys_BHLD, values_BHLD, self.mask_B11L)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, cache_kwargs: Any = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """For transformers' forward pass, one token a row: stores it, and returns all keys and values of each row."""
        return self._append(layer_idx, key_states[:, :, 0], value_states[:, :, 0])

    def get_seq_length(self, layer_idx: int | None = 0) -> int:
        """Tokens before the one that the next forward pass reads."""
        return self._length - 1

    def get_max_cache_shape(self) -> int:
        """Tokens that a sequence may have."""
        return self._limit

    def _append(self, layer: int, key_BHD: torch.Tensor, value_BHD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states_2RHLD = self._layers[layer]
        flat = states_2RHLD.view(-1, states_2RHLD.size(4))
        flat.index_copy_(0, self._places, torch.stack([key_BHD, value_BHD]).view(-1, flat.size(1)))
        keys, values = states_2RHLD[:, : len(key_BHD), :, : self._length]
        return keys, values

    def _grow(self, layer: int, length: int) -> None:
        """Makes room for sequences of `length` tokens."""
        capacity = self._layers[layer].size(3)
        if length > capacity:
            wanted = max(length, min(self._limit, max(_COLUMNS, length * 3 // 2)))
            self._layers[layer] = grown(self._layers[layer], self._rows, wanted)
