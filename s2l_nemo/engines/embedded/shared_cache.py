"""A KV cache in which the rows of a group share their prompt, for decoding on a CPU.

Decoding reads all keys and values once for every token. Of a group of 16 with prompts as long as the answers so far,
half of that is 16 times the same. States are kept in float32. Axes: B rows, P prompts, Q query heads, K key-value
heads, L columns, D head size.
"""

from __future__ import annotations

import numpy as np
import torch
from transformers import DynamicCache

from s2l_nemo.engines.embedded.compiled import F32, Numbers
from s2l_nemo.engines.embedded.kernels import Kernels
from s2l_nemo.engines.embedded.kv_cache import grown

_PROMPTS, _COLUMNS = 16, 128  # at least; beyond that the cache grows by a half
_NONE = np.empty(0, np.int64)


class SharedCache:
    """Keys and values of up to `rows` answers, and of the prompts that they answer: together up to `limit` tokens.

    A prompt's token at position p is in column p of its prompt. A row's n-th token, counted from 0, is in column n of
    the row's slot. Slots 0..n-1 are in use; the caller keeps them dense with `move`.
    """

    def __init__(self, rows: int, limit: int) -> None:
        self._rows, self._limit = rows, limit
        self._answers: list[torch.Tensor] = []  # of each layer, [2, rows, K, columns, D]: keys, then values
        self._prompts: list[torch.Tensor] = []  # [2, prompts, K, columns, D]
        self._lengths: list[int] = []  # of the prompts in use
        self._prompt_of: list[int] = []  # of the rows in use
        self._columns: list[int] = []  # where the rows in use have their newest token
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

    def at(self, positions: list[int]) -> None:
        """Readies the next forward pass, in which row b has its token at `positions[b]`."""
        prompts = [self._lengths[prompt] for prompt in self._prompt_of]
        self._columns = [position - length for position, length in zip(positions, prompts, strict=True)]
        length = max(self._columns) + 1  # of the longest answer
        if length > self._answers[0].size(3):
            wanted = min(self._limit - min(self._lengths), max(_COLUMNS, length * 3 // 2))
            self._answers = [grown(states, self._rows, wanted) for states in self._answers]
        self._indices = np.array(self._columns), np.array(self._prompt_of), np.array(self._lengths)

    def attend(self, layer: int, heads_BND: F32, out_BX: Numbers) -> None:
        """Stores the new keys and values. out = attention to the prompt and to the row's own tokens; X = Q D.

        A row's heads are its queries, its keys, its values: N = Q + 2 K.
        """
        answers, prompts = self._answers[layer].numpy(), self._prompts[layer].numpy()
        Kernels.of(out_BX.dtype).attend(heads_BND, answers, prompts, *self._indices, out_BX)

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
