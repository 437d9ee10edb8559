"""Plain data that every floor shares. Axis letters: P prompts, G group, B = P*G sequences, T tokens, V vocabulary."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch

FinishReason = Literal["stop", "length"]


class Source(enum.IntEnum):
    """Who sampled a completion."""

    LEARNER = 0
    EXPLORER = 1


@dataclass(frozen=True)
class Prompt:
    """One question. `prompt_id` is its row in the data set, so it is unique and the same in every epoch."""

    prompt_id: int
    text: str
    answer: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class SamplingParams:
    """How to sample. `temperature` 0 is greedy. `top_k` 0 and `top_p` 1 are off. The output keeps its stop token.

    `presence_penalty` is taken off the logit of every token that the response already has, before the temperature.
    """

    max_new_tokens: int
    stop_token_ids: tuple[int, ...]
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    presence_penalty: float = 0.0


@dataclass(frozen=True)
class SampleRequest:
    """One completion to sample. Requests of one prompt share `prompt_id`, so that an engine prefills it once."""

    prompt_id: int
    sample_id: int
    prompt_token_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Completion:
    """One sampled answer.

    `token_ids` has the stop token but not the prompt. `logprobs` has the natural logarithm of the probability of each
    token, under the distribution from which the sampler drew it.
    """

    prompt_id: int
    sample_id: int
    source: Source
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    weight_version: int
    reward: float | None = None
    answer: str | None = None  # what the grader extracted
    grader_error: str | None = None  # why the check failed, if it did; the reward is then 0
    kept: bool = True  # False: the explorer filter left it out of advantages and gradient


@dataclass(frozen=True)
class Group:
    """All G completions of one prompt. The `source` of a completion says whether explorer or learner sampled it."""

    prompt: Prompt
    completions: tuple[Completion, ...]

    def rewards_G(self) -> list[float]:
        """Rewards in sample order. Raises ValueError if a completion has not been graded."""
        rewards = []
        for completion in self.completions:
            if completion.reward is None:
                raise ValueError(f"prompt {completion.prompt_id} sample {completion.sample_id} has no reward")
            rewards.append(completion.reward)
        return rewards

    def tokens(self) -> int:
        """Tokens of the prompt, once, and of all completions."""
        return len(self.prompt.token_ids) + sum(len(completion.token_ids) for completion in self.completions)

    def kept_G(self) -> list[bool]:
        """Which completions are trained on."""
        return [completion.kept for completion in self.completions]


@dataclass(frozen=True)
class TrainBatch:
    """Sequences for the actor, padded on the right. Per-token tensors are aligned to the targets `tokens_BT[:, 1:]`.

    So with S = T - 1, `x_BS[b, t]` belongs to the token at position t + 1, which positions 0..t predict.
    """

    tokens_BT: torch.Tensor  # int64
    mask_BS: torch.Tensor  # float32, 1 on response tokens
    sampler_logprobs_BS: torch.Tensor  # float32, of the engine that sampled
    advantages_B: torch.Tensor  # float32
    source_B: torch.Tensor  # int64, values of Source
    prompt_length_B: torch.Tensor  # int64, tokens
    length_B: torch.Tensor  # int64, tokens of prompt and response; after them comes padding
    prompt_id_B: torch.Tensor  # int64
    sample_id_B: torch.Tensor  # int64
    old_logprobs_BS: torch.Tensor | None = None  # learner before this step's updates; None: nothing is updated yet
    ref_logprobs_BS: torch.Tensor | None = None  # learner before training

    def __len__(self) -> int:
        return self.tokens_BT.size(0)

    def with_logprobs(self, old_BS: torch.Tensor | None, ref_BS: torch.Tensor | None) -> TrainBatch:
        return replace(self, old_logprobs_BS=old_BS, ref_logprobs_BS=ref_BS)

    def select(self, rows: Sequence[int] | slice) -> TrainBatch:
        """The batch made of these rows."""
        index = rows if isinstance(rows, slice) else torch.as_tensor(rows, dtype=torch.long)
        return self._map(lambda tensor: tensor[index])

    @classmethod
    def cat(cls, batches: Sequence[TrainBatch]) -> TrainBatch:
        """The rows of all batches, which have one length T, in order. They carry the same tensors."""

        def joined(name: str) -> torch.Tensor | None:
            values = [getattr(batch, name) for batch in batches]
            return None if values[0] is None else torch.cat(values)

        return cls(**{f.name: joined(f.name) for f in fields(cls)})

    def to(self, device: torch.device) -> TrainBatch:
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> TrainBatch:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: function(value) for name, value in values.items() if value is not None})

    def split(self, size: int) -> Iterator[TrainBatch]:
        """Consecutive batches of `size` rows. Raises ValueError if `size` does not divide the batch."""
        if len(self) % size:
            raise ValueError(f"a batch of {len(self)} sequences cannot be split into parts of {size}")
        for start in range(0, len(self), size):
            yield self.select(slice(start, start + size))
