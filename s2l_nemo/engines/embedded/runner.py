"""Runs a scheduler's steps through the model. Axes: P prompts, B rows, S slots, L columns, V vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from typing_extensions import assert_never

from s2l_nemo.engines.embedded.decoder import Decoder
from s2l_nemo.engines.embedded.kv_cache import KVCache, SlotCache, additive_mask
from s2l_nemo.engines.embedded.sampling import sample_tokens
from s2l_nemo.engines.embedded.scheduler import Decode, Join, Moves, PromptTokens, Row, Step
from s2l_nemo.types import SamplingParams

_PREFILL_TOKENS = 32768  # padded tokens of one prefill pass; bounds its activations


@dataclass
class _Prefilled:
    """Where a prompt's keys and values are, and the logits after its last token."""

    cache: DynamicCache
    row: int
    start: int  # columns of left padding
    logits_V: torch.Tensor


class Runner:
    """The model, and what one call of `generate` keeps for each slot: keys and values, and the tokens generated."""

    def __init__(
        self, model: Any, decoder: Decoder[Any] | None, params: SamplingParams, slots: int, longest: int
    ) -> None:
        """A sequence has at most `longest` tokens. Without a `decoder` of its weights, the model decodes itself."""
        self._model = model
        self._decoder = decoder
        self._device: torch.device = model.device
        self._params = params
        self._cache: KVCache = decoder.new_cache(slots, longest) if decoder else SlotCache(slots, longest)
        self._prefilled: dict[PromptTokens, _Prefilled] = {}
        self._seen_SV: torch.Tensor | None = None  # which tokens the row of each slot has generated
        if params.presence_penalty:
            vocabulary = model.get_output_embeddings().weight.size(0)
            self._seen_SV = torch.zeros(slots, vocabulary, dtype=torch.bool, device=self._device)

    def run(self, step: Step) -> tuple[list[int], list[float]]:
        """The next token of each row of the step, and its log-prob."""
        match step:
            case Join():
                logits_BV = self._join(step)
            case Decode():
                logits_BV = self._decode(step.rows)
            case _:
                assert_never(step)
        return self._sample(step, logits_BV)

    def move(self, moves: Moves) -> None:
        """Follows the rows to their new slots."""
        self._cache.move(moves.sources, moves.targets, moves.free.start)
        if self._seen_SV is not None:
            if moves.targets:
                self._seen_SV[moves.targets] = self._seen_SV[moves.sources]
            self._seen_SV[moves.free.start : moves.free.stop] = False  # for the rows that join

    def _join(self, step: Join) -> torch.Tensor:
        """Fills the slots of the rows that join with their prompts. Returns the logits after the prompts, [B, V]."""
        slots: dict[PromptTokens, list[int]] = {}
        for slot, row in enumerate(step.rows, start=step.first_slot):
            slots.setdefault(row.prompt, []).append(slot)
        self._prefill([prompt for prompt in slots if prompt not in self._prefilled])
        for prompt, its_slots in slots.items():
            state = self._prefilled[prompt]
            self._cache.insert(state.cache, state.row, its_slots, state.start)
        logits_BV = torch.stack([self._prefilled[row.prompt].logits_V for row in step.rows])
        # Rows with equal prompts join one after the other, so no other prompt is needed again.
        self._prefilled = {prompt: state for prompt, state in self._prefilled.items() if prompt == step.next_prompt}
        return logits_BV

    def _prefill(self, prompts: list[PromptTokens]) -> None:
        """Runs the prompts, left-padded, in passes of bounded size. `prompts` come longest first."""
        while prompts:
            longest = len(prompts[0])
            count = max(1, _PREFILL_TOKENS // longest)
            part, prompts = prompts[:count], prompts[count:]
            starts = [longest - len(prompt) for prompt in part]
            padded = [[0] * start + list(prompt) for start, prompt in zip(starts, part, strict=True)]
            tokens_PL = torch.tensor(padded, device=self._device)
            starts_P1 = torch.tensor(starts, device=self._device)[:, None]
            columns_L = torch.arange(longest, device=self._device)
            visible_PLL = (columns_L[None, :] <= columns_L[:, None]) & (columns_L >= starts_P1)[:, None, :]
            cache = DynamicCache()
            logits_PV = self._model(
                input_ids=tokens_PL,
                attention_mask=additive_mask(visible_PLL[:, None], self._model.dtype),
                position_ids=(columns_L - starts_P1).clamp(min=0),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            for row, prompt in enumerate(part):
                self._prefilled[prompt] = _Prefilled(cache, row, starts[row], logits_PV[row])

    def _decode(self, rows: list[Row]) -> torch.Tensor:
        """Logits after the newest token of each row, [B, V]."""
        positions = [row.last_position for row in rows]
        tokens_B, positions_B = torch.tensor([[row.tokens[-1] for row in rows], positions], device=self._device)
        self._cache.at(positions)
        if self._decoder is not None:
            return self._decoder(tokens_B, positions_B, self._cache)
        assert isinstance(self._cache, SlotCache)
        logits_BV: torch.Tensor = self._model(
            input_ids=tokens_B[:, None],
            attention_mask=self._cache.mask_B11L,
            position_ids=positions_B[:, None],
            past_key_values=self._cache,
            use_cache=True,
        ).logits[:, -1]
        return logits_BV

    def _sample(self, step: Step, logits_BV: torch.Tensor) -> tuple[list[int], list[float]]:
        rows, first = step.rows, step.first_slot
        seen_BV = None if self._seen_SV is None else self._seen_SV[first : first + len(rows)]
        state_2B = torch.tensor([[row.request.seed for row in rows], [len(row.tokens) for row in rows]])
        seeds_B, counts_B = state_2B.to(self._device)
        tokens_B, logprobs_B = sample_tokens(logits_BV, seeds_B, counts_B, self._params, seen_BV)
        return tokens_B.tolist(), logprobs_B.tolist()
