"""Engines inside the training process: transformers models with continuous batching on a preallocated KV cache."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache
from transformers.modeling_utils import no_init_weights

from s2l_nemo.engines.embedded.attention import GROUPED_SDPA
from s2l_nemo.engines.embedded.kv_cache import SlotCache
from s2l_nemo.engines.embedded.sampling import sample_tokens
from s2l_nemo.errors import UserError
from s2l_nemo.types import Completion, SampleRequest, SamplingParams, Source

_PREFILL_TOKENS = 32768  # padded tokens of one prefill pass; bounds its activations
_REFILL_FRACTION = 8  # new rows join when 1/8 of the slots are free: fewer, larger prefills

Engine = TypeVar("Engine", bound="EmbeddedEngine")


@dataclass
class _Row:
    """A sequence that is being decoded."""

    index: int  # of its request
    request: SampleRequest
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    done: bool = False

    @property
    def last_position(self) -> int:
        """Position of the newest token, whose keys and values are not in the cache yet."""
        return len(self.request.prompt_token_ids) + len(self.tokens) - 1


@dataclass
class _Prefilled:
    """Where a prompt's keys and values are, and the logits after its last token."""

    cache: DynamicCache
    row: int
    start: int  # columns of left padding
    logits_V: torch.Tensor


class EmbeddedEngine:
    """Samples from one frozen transformers decoder (see `engine.RolloutEngine`).

    Each distinct prompt is prefilled once and its keys and values are copied to the rows of its group. At most
    `max_batch_rows` sequences decode at once; a finished row leaves the batch at once and waiting requests join.
    Any decoder that AutoModelForCausalLM loads without remote code will do if it keeps its state in a `Cache` and
    takes `logits_to_keep`. The engine owns the model: it changes its attention.

    A request has the same tokens in any batch and in any process, and log-probs that agree within 1e-5 in float32. Bits
    are not promised: a matrix product rounds differently for another number of rows or threads. A draw that falls
    within that rounding gives another token: about one in a million in float32, far more in bfloat16.
    """

    def __init__(self, model: Any, *, source: Source, max_batch_rows: int) -> None:
        self._model = model.eval().requires_grad_(False)
        if model._supports_attention_backend:  # else the model keeps transformers' own attention
            model.config._attn_implementation = GROUPED_SDPA
        self._source = source
        self._max_batch_rows = max_batch_rows
        self._device: torch.device = model.device
        self._dtype: torch.dtype = model.dtype
        self._weight_version = 0

    @classmethod
    def from_pretrained(
        cls: type[Engine],
        path: str | Path,
        *,
        source: Source,
        device: str | torch.device,
        dtype: torch.dtype,
        max_batch_rows: int,
    ) -> Engine:
        """Loads a local Hugging Face folder. Raises UserError where there is none."""
        if not (Path(path) / "config.json").is_file():
            raise UserError(f"no Hugging Face model in {path}: it has no config.json; give the folder of a checkpoint")
        model = AutoModelForCausalLM.from_pretrained(
            path,
            torch_dtype=dtype,
            attn_implementation="sdpa",
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        ).to(device)
        for parameter in model.parameters():
            if parameter.is_cpu:
                # It is mapped where the file has it, and sums depend on how an address is aligned: the same weights in
                # another file, or from another format, would give numbers that differ in the last bit.
                parameter.data = parameter.data.clone()
        return cls(model, source=source, max_batch_rows=max_batch_rows)

    @classmethod
    def from_weights(
        cls: type[Engine],
        config: Mapping[str, Any],
        buckets: Iterable[dict[str, torch.Tensor]],
        *,
        source: Source,
        device: str | torch.device,
        dtype: torch.dtype,
        max_batch_rows: int,
    ) -> Engine:
        """Builds the model that a Hugging Face config.json describes and fills it, where there is no such folder.

        `buckets` are full tensors under Hugging Face names, tied ones once. Raises ValueError for a name that is
        unknown, missing, repeated or of another shape.
        """
        figures = dict(config)
        model_config = AutoConfig.for_model(figures.pop("model_type"), **figures)
        with no_init_weights(), torch.device(device):
            model = AutoModelForCausalLM.from_config(
                model_config, torch_dtype=dtype, attn_implementation="sdpa", trust_remote_code=False
            )
        model.tie_weights()  # left out with the initialisation
        engine = cls(model, source=source, max_batch_rows=max_batch_rows)
        engine._fill(buckets, "weights given")
        return engine

    def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Completion]:
        """One completion per request, in the order of the requests; see `RolloutEngine.generate`."""
        self._check_fits(requests, params)
        completions: dict[int, Completion] = {}
        for row in self._decode(requests, params):
            completions[row.index] = Completion(
                prompt_id=row.request.prompt_id,
                sample_id=row.request.sample_id,
                source=self._source,
                token_ids=tuple(row.tokens),
                logprobs=tuple(row.logprobs),
                finish_reason="stop" if row.tokens[-1] in params.stop_token_ids else "length",
                weight_version=self._weight_version,
            )
        return [completions[index] for index in range(len(requests))]

    def weight_hash(self) -> str:
        """SHA-256 over all tensors (names, shapes, types, bytes) in name order, as lowercase hex."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._weights().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _weights(self) -> dict[str, torch.Tensor]:
        """Parameters and persistent buffers, tied ones under their first name only."""
        weights: dict[int, tuple[str, torch.Tensor]] = {}
        for name, tensor in self._model.state_dict(keep_vars=True).items():
            weights.setdefault(id(tensor), (name, tensor))
        return dict(weights.values())

    @torch.no_grad()
    def _fill(self, buckets: Iterable[dict[str, torch.Tensor]], what: str) -> None:
        """Replaces every weight in place. Raises ValueError, which `what` begins, unless each comes exactly once."""
        missing = self._weights()
        known = set(missing)
        for bucket in buckets:
            for name, tensor in bucket.items():
                if name not in known:
                    raise ValueError(f"{what}: the model has no tensor {name} (or it is tied)")
                if name not in missing:
                    raise ValueError(f"{what}: tensor {name} came twice")
                ours = missing.pop(name)
                if ours.shape != tensor.shape:
                    raise ValueError(
                        f"{what}: tensor {name} has shape {tuple(tensor.shape)}, the model's has {tuple(ours.shape)}"
                    )
                ours.copy_(tensor)
        if missing:
            raise ValueError(f"{what}: {len(missing)} tensors are missing, first {min(missing)}")

    def _check_fits(self, requests: Sequence[SampleRequest], params: SamplingParams) -> None:
        limit = self._model.config.max_position_embeddings
        for request in requests:
            length = len(request.prompt_token_ids)
            if length + params.max_new_tokens > limit:
                raise ValueError(
                    f"prompt {request.prompt_id} has {length} tokens; with {params.max_new_tokens} new ones it exceeds"
                    f" the model's {limit} positions: lower max_new_tokens or filter longer prompts"
                )

    @torch.no_grad()
    def _decode(self, requests: Sequence[SampleRequest], params: SamplingParams) -> Iterator[_Row]:
        """Finished rows, in the order in which they finish."""
        waiting = [_Row(index, request) for index, request in enumerate(requests)]
        # Longest first and equal prompts side by side: little padding in a prefill, and one prompt open at a time.
        waiting.sort(key=lambda row: (len(row.request.prompt_token_ids), row.request.prompt_token_ids), reverse=True)
        queue = deque(waiting)
        slots = min(self._max_batch_rows, len(waiting))
        longest = max((len(request.prompt_token_ids) for request in requests), default=0)
        cache = SlotCache(slots, longest + params.max_new_tokens)
        seen_SV = self._no_tokens_seen(slots) if params.presence_penalty else None
        prefilled: dict[tuple[int, ...], _Prefilled] = {}
        rows: list[_Row] = []
        while queue or rows:
            free = slots - len(rows)
            if queue and free >= max(1, slots // _REFILL_FRACTION):
                joining = [queue.popleft() for _ in range(min(free, len(queue)))]
                logits_BV = self._join(joining, cache, len(rows), prefilled)
                keep = queue[0].request.prompt_token_ids if queue else None
                prefilled = {prompt: state for prompt, state in prefilled.items() if prompt == keep}
                self._append(joining, logits_BV, params, seen_SV, first_slot=len(rows))
                rows += joining
            else:
                self._append(rows, self._forward(rows, cache), params, seen_SV)
            yield from (row for row in rows if row.done)
            rows = _compact(rows, cache, seen_SV)

    def _join(
        self, joining: list[_Row], cache: SlotCache, first_slot: int, prefilled: dict[tuple[int, ...], _Prefilled]
    ) -> torch.Tensor:
        """Fills the slots from `first_slot` on with the prompts of `joining`; returns the logits after them, [B, V]."""
        slots: dict[tuple[int, ...], list[int]] = {}
        for slot, row in enumerate(joining, start=first_slot):
            slots.setdefault(row.request.prompt_token_ids, []).append(slot)
        self._prefill([prompt for prompt in slots if prompt not in prefilled], prefilled)
        for prompt, its_slots in slots.items():
            state = prefilled[prompt]
            cache.insert(state.cache, state.row, its_slots, state.start)
        return torch.stack([prefilled[row.request.prompt_token_ids].logits_V for row in joining])

    def _prefill(self, prompts: list[tuple[int, ...]], prefilled: dict[tuple[int, ...], _Prefilled]) -> None:
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
                attention_mask=self._additive(visible_PLL[:, None]),
                position_ids=(columns_L - starts_P1).clamp(min=0),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            for row, prompt in enumerate(part):
                prefilled[prompt] = _Prefilled(cache, row, starts[row], logits_PV[row])

    def _forward(self, rows: list[_Row], cache: SlotCache) -> torch.Tensor:
        """Logits after the newest token of each row, [B, V]."""
        positions = [row.last_position for row in rows]
        length = max(positions) + 1
        inputs_2B = torch.tensor([[row.tokens[-1] for row in rows], positions], device=self._device)
        tokens_B, positions_B = inputs_2B[0], inputs_2B[1]
        visible_BL = torch.arange(length, device=self._device) <= positions_B[:, None]
        return self._model(
            input_ids=tokens_B[:, None],
            attention_mask=self._additive(visible_BL[:, None, None]),
            position_ids=positions_B[:, None],
            past_key_values=cache.at(positions_B, length),
            use_cache=True,
        ).logits[:, -1]

    def _no_tokens_seen(self, slots: int) -> torch.Tensor:
        """Which tokens the row of each slot has generated, bool [S, V]: none."""
        vocabulary = self._model.get_output_embeddings().weight.size(0)
        return torch.zeros(slots, vocabulary, dtype=torch.bool, device=self._device)

    def _append(
        self,
        rows: list[_Row],
        logits_BV: torch.Tensor,
        params: SamplingParams,
        seen_SV: torch.Tensor | None,
        first_slot: int = 0,
    ) -> None:
        """Samples the next token of each row and marks the rows that it ends; the first row is in `first_slot`."""
        seen_BV = None if seen_SV is None else seen_SV[first_slot : first_slot + len(rows)]
        state_2B = torch.tensor([[row.request.seed for row in rows], [len(row.tokens) for row in rows]])
        seeds_B, counts_B = state_2B.to(self._device)
        tokens_B, logprobs_B = sample_tokens(logits_BV, seeds_B, counts_B, params, seen_BV)
        for row, token, logprob in zip(rows, tokens_B.tolist(), logprobs_B.tolist(), strict=True):
            row.tokens.append(token)
            row.logprobs.append(logprob)
            row.done = token in params.stop_token_ids or len(row.tokens) == params.max_new_tokens

    def _additive(self, visible: torch.Tensor) -> torch.Tensor:
        """Attention mask to add to the scores: 0 where visible, else the lowest finite number."""
        mask = torch.zeros(visible.shape, dtype=self._dtype, device=self._device)
        return mask.masked_fill_(~visible, torch.finfo(self._dtype).min)


class EmbeddedLearnerEngine(EmbeddedEngine):
    """An engine whose weights follow the actor's (see `engine.LearnerEngine`)."""

    _updating: int | None = None  # version of an update that has begun and not succeeded

    @property
    def weight_version(self) -> int:
        """Version given with the last complete update; 0 before the first."""
        return self._weight_version

    def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Completion]:
        """As the base class. Raises RuntimeError after an incomplete update, whose weights are a mixture."""
        if self._updating is not None:
            raise RuntimeError(f"the update to weight version {self._updating} is incomplete: send all weights again")
        return super().generate(requests, params)

    def update_weights(self, buckets: Iterable[dict[str, torch.Tensor]], version: int) -> None:
        """Replaces every weight in place; see `LearnerEngine.update_weights`."""
        self._updating = version
        self._fill(buckets, f"weight version {version}")
        self._weight_version = version
        self._updating = None


def _compact(rows: list[_Row], cache: SlotCache, seen_SV: torch.Tensor | None) -> list[_Row]:
    """The rows that go on, in dense slots: the last ones move into the slots of those that are done."""
    active = [slot for slot, row in enumerate(rows) if not row.done]
    holes = [slot for slot in range(len(active)) if rows[slot].done]
    if holes:
        movers = active[-len(holes) :]
        cache.move(movers, holes, max(rows[slot].last_position for slot in movers))
        if seen_SV is not None:
            seen_SV[holes] = seen_SV[movers]
        for hole, mover in zip(holes, movers, strict=True):
            rows[hole] = rows[mover]
    if seen_SV is not None:
        seen_SV[len(active) : len(rows)] = False  # for the rows that join
    return rows[: len(active)]
