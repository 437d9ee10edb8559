"""A KV cache in which the rows of a group share their prompt, for decoding on a CPU.

Decoding reads all keys and values once for every token. Of a group of 16 with prompts as long as the answers so far,
half of that is 16 times the same. States are kept in float32: in bfloat16 a CPU takes five times as long for batched
products of such small matrices. Axes: B rows, P prompts, N rows of the largest group, Q query heads, K key-value heads,
G = Q / K, L columns, D head size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from transformers import DynamicCache

from s2l_nemo.engines.embedded import kernels
from s2l_nemo.engines.embedded.kv_cache import additive_mask, grown

_PROMPTS, _COLUMNS = 16, 128  # at least; beyond that the cache grows by a half
_NONE = np.empty(0, np.int64)


@dataclass(frozen=True)
class _Groups:
    """Which rows have which prompt."""

    each: int  # N
    row_PN: torch.Tensor | None  # flat; row 0 where a group has fewer than N rows. None: all rows in their order
    place_B: torch.Tensor | None  # p * N + n of each row
    mask_P1L: torch.Tensor  # [P * K, 1, L] to add to scores: the lowest number past a prompt's end


@dataclass(frozen=True)
class _Step:
    places: torch.Tensor  # of a new token's keys and values in a flat layer
    mask_B1L: torch.Tensor  # [B * K, 1, L]


def _most_alone() -> float:
    """Products of queries and keys up to which one thread that does all at once is faster than batched products.

    Measured with heads of 16 to 128 numbers, and 8 to 256 rows. One thread is faster but for long prompts of many rows.
    """
    threads = torch.get_num_threads()
    return math.inf if threads == 1 else max(2**20, 2**22 // threads)


class SharedCache:
    """Keys and values of up to `rows` answers, and of the prompts that they answer: together up to `limit` tokens.

    A prompt's token at position p is in column p of its prompt. A row's n-th token, counted from 0, is in column n of
    the row's slot. Slots 0..n-1 are in use; the caller keeps them dense with `move`.
    """

    def __init__(self, rows: int, limit: int, alone: float | None = None) -> None:
        self._rows, self._limit = rows, limit
        self._alone = _most_alone() if alone is None else alone
        self._answers: list[torch.Tensor] = []  # of each layer, [2, rows, K, columns, D]: keys, then values
        self._prompts: list[torch.Tensor] = []  # [2, prompts, K, columns, D]
        self._lengths: list[int] = []  # of the prompts in use
        self._prompt_of: list[int] = []  # of the rows in use
        self._columns: list[int] = []  # where the rows in use have their newest token
        self._groups: _Groups | None = None  # None after rows came or went
        self._length = 0  # of the longest answer
        self._step: _Step | None = None  # None until a layer of the step needs it
        self._indices = (_NONE, _NONE, _NONE)  # of the rows their columns and prompts, of the prompts their lengths

    def insert(self, prompts: DynamicCache, row: int, slots: list[int], start: int) -> None:
        """Takes columns `start`.. of one row of a prefilled cache as the prompt of `slots`, the next ones."""
        length = prompts.key_cache[0].size(2) - start
        place = len(self._lengths)
        for layer, (keys_RKLD, values_RKLD) in enumerate(zip(prompts.key_cache, prompts.value_cache, strict=True)):
            prompt_2KLD = torch.stack([keys_RKLD[row, :, start:], values_RKLD[row, :, start:]]).float()
            if layer == len(self._prompts):  # the model, not its config, says how large keys and values are
                self._prompts.append(prompt_2KLD.new_zeros(2, 0, prompt_2KLD.size(1), 0, prompt_2KLD.size(3)))
                self._answers.append(prompt_2KLD.new_zeros(2, self._rows, prompt_2KLD.size(1), 0, prompt_2KLD.size(3)))
            held = self._prompts[layer]
            if place >= held.size(1) or length > held.size(3):
                count = max(_PROMPTS, (place + 1) * 3 // 2) if place >= held.size(1) else held.size(1)
                self._prompts[layer] = held = grown(held, count, max(length, held.size(3)))
            held[:, place, :, :length] = prompt_2KLD
        self._lengths.append(length)
        assert slots == list(range(len(self._prompt_of), len(self._prompt_of) + len(slots)))
        self._prompt_of += [place] * len(slots)
        self._columns += [-1] * len(slots)
        self._groups = None

    def move(self, sources: list[int], targets: list[int], rows: int) -> None:
        """Moves the rows of slots `sources` to slots `targets`. Then slots 0..rows-1 are in use."""
        length = max((self._columns[source] for source in sources), default=-1) + 1
        if length:
            for states_2RKCD in self._answers:
                states_2RKCD[:, targets, :, :length] = states_2RKCD[:, sources, :, :length]
        for source, target in zip(sources, targets, strict=True):
            self._prompt_of[target], self._columns[target] = self._prompt_of[source], self._columns[source]
        del self._prompt_of[rows:], self._columns[rows:]
        self._forget_prompts()
        self._groups = None

    def at(self, positions: list[int]) -> None:
        """Readies the next forward pass, in which row b has its token at `positions[b]`."""
        prompts = [self._lengths[prompt] for prompt in self._prompt_of]
        self._columns = [position - length for position, length in zip(positions, prompts, strict=True)]
        self._length = max(self._columns) + 1
        if self._length > self._answers[0].size(3):
            wanted = min(self._limit - min(self._lengths), max(_COLUMNS, self._length * 3 // 2))
            self._answers = [grown(states, self._rows, wanted) for states in self._answers]
        self._indices = np.array(self._columns), np.array(self._prompt_of), np.array(self._lengths)
        self._step = None

    def attend(self, layer: int, heads_BND: torch.Tensor) -> torch.Tensor:
        """Stores the new keys and values. Returns [B, Q * D]: attention to the prompt and to the row's own tokens.

        A row's heads are its queries, its keys, its values: N = Q + 2 K. All is float32.
        """
        states_2RKCD, (rows, heads, size) = self._answers[layer], heads_BND.shape
        key_values = states_2RKCD.size(2)
        queries = heads - 2 * key_values
        if rows * queries * size * (max(self._lengths) + self._length) >= self._alone:
            return self._attend_in_products(layer, *heads_BND.split([queries, key_values, key_values], dim=1))
        out = heads_BND.new_empty(rows, queries * size)
        answers, prompts = states_2RKCD.numpy(), self._prompts[layer].numpy()
        kernels.attend(heads_BND.numpy(), answers, prompts, *self._indices, out.numpy())
        return out

    def _attend_in_products(
        self, layer: int, query_BQD: torch.Tensor, key_BKD: torch.Tensor, value_BKD: torch.Tensor
    ) -> torch.Tensor:
        """The same in batched products, which use all threads and read a prompt once for its rows."""
        self._groups = self._groups or self._grouped()
        self._step = self._step or self._placed()
        states_2RKCD, (rows, queries, size), heads = self._answers[layer], query_BQD.shape, key_BKD.size(1)
        new_2BKD = torch.stack([key_BKD, value_BKD])
        states_2RKCD.view(-1, size).index_copy_(0, self._step.places, new_2BKD.view(-1, size))
        keys_BKLD, values_BKLD = states_2RKCD[:, :rows, :, : self._length].flatten(1, 2)
        longest = self._groups.mask_P1L.size(2)
        prompt_keys, prompt_values = self._prompts[layer][:, : len(self._lengths), :, :longest].flatten(1, 2)
        scale = size**-0.5
        to_prompts = self._to_prompts(query_BQD, heads)
        prompt_scores = torch.baddbmm(self._groups.mask_P1L, to_prompts, prompt_keys.transpose(1, 2), alpha=scale)
        own_queries = query_BQD.reshape(rows * heads, -1, size)
        own_scores = torch.baddbmm(self._step.mask_B1L, own_queries, keys_BKLD.transpose(1, 2), alpha=scale)
        scores_BQL = torch.cat([self._to_rows(prompt_scores, heads), own_scores.view(rows, queries, -1)], dim=2)
        weights_BQL = scores_BQL.softmax(2)
        prompt_weights = self._to_prompts(weights_BQL[..., :longest], heads)
        prompt_out_BQD = self._to_rows(torch.bmm(prompt_weights, prompt_values), heads)
        own_weights = weights_BQL[..., longest:].reshape(rows * heads, -1, self._length)
        out = torch.baddbmm(prompt_out_BQD.view(own_queries.shape), own_weights, values_BKLD)
        return out.view(rows, -1)

    def _to_prompts(self, x_BQX: torch.Tensor, heads: int) -> torch.Tensor:
        """[P * K, N * G, X]: the rows of a group as query positions of its prompt."""
        assert self._groups is not None
        if self._groups.row_PN is not None:
            x_BQX = x_BQX.index_select(0, self._groups.row_PN)
        prompts, queries = len(self._lengths), x_BQX.size(1) // heads
        x_PNKGX = x_BQX.view(prompts, -1, heads, queries, x_BQX.size(2))
        return x_PNKGX.transpose(1, 2).reshape(prompts * heads, -1, x_BQX.size(2))

    def _to_rows(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        """[B, Q, X]: the inverse of `_to_prompts`."""
        assert self._groups is not None
        prompts, size = len(self._lengths), x.size(2)
        x_PKNGX = x.view(prompts, heads, self._groups.each, -1, size)
        x_BQX = x_PKNGX.transpose(1, 2).reshape(prompts * self._groups.each, -1, size)
        return x_BQX if self._groups.place_B is None else x_BQX.index_select(0, self._groups.place_B)

    def _forget_prompts(self) -> None:
        """The last prompts take the places of those that no row has any more."""
        used = set(self._prompt_of)
        holes = [place for place in range(len(used)) if place not in used]
        movers = [place for place in range(len(used), len(self._lengths)) if place in used]
        for hole, mover in zip(holes, movers, strict=True):
            for states_2PKLD in self._prompts:
                states_2PKLD[:, hole] = states_2PKLD[:, mover]
            self._lengths[hole] = self._lengths[mover]
        del self._lengths[len(used) :]
        moved = dict(zip(movers, holes, strict=True))
        self._prompt_of = [moved.get(prompt, prompt) for prompt in self._prompt_of]

    def _placed(self) -> _Step:
        _, rows, heads, capacity, _ = self._answers[0].shape
        column_B = torch.tensor(self._columns)
        kinds_2, rows_B, heads_K = (torch.arange(n) for n in (2, len(column_B), heads))
        lines_2BK = (kinds_2[:, None, None] * rows + rows_B[:, None]) * heads + heads_K
        visible_BL = torch.arange(self._length) <= column_B[:, None]
        mask_BL = additive_mask(visible_BL, self._answers[0].dtype)
        return _Step((lines_2BK * capacity + column_B[:, None]).view(-1), mask_BL.repeat_interleave(heads, 0)[:, None])

    def _grouped(self) -> _Groups:
        rows: list[list[int]] = [[] for _ in self._lengths]
        for row, prompt in enumerate(self._prompt_of):
            rows[prompt].append(row)
        each = max(map(len, rows))
        place_B = [0] * len(self._prompt_of)
        for prompt, its in enumerate(rows):
            for index, row in enumerate(its):
                place_B[row] = prompt * each + index
        padded = [row for its in rows for row in its + [0] * (each - len(its))]
        columns_L, dtype = torch.arange(max(self._lengths)), self._prompts[0].dtype
        mask_PL = additive_mask(columns_L < torch.tensor(self._lengths)[:, None], dtype)
        in_order = padded == list(range(len(place_B)))
        return _Groups(
            each=each,
            row_PN=None if in_order else torch.tensor(padded),
            place_B=None if in_order else torch.tensor(place_B),
            mask_P1L=mask_PL.repeat_interleave(self._prompts[0].size(2), 0)[:, None],
        )
