"""Plain data that every floor shares. Axis letters: P prompts, G group, B = P*G sequences, T tokens, V vocabulary."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

TokenIds = npt.NDArray[np.int32]
LogProbs = npt.NDArray[np.float32]
FinishReason = Literal["stop", "length"]


class Source(enum.IntEnum):
    """Who sampled a completion: the learner, or the explorer. Of several explorers, the k-th one is source k."""

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
    draw: int = 0  # samples of this prompt by the same policy before this one, counted over the run


@dataclass(frozen=True, eq=False)
class Completion:
    """One sampled answer.

    `token_ids` has the stop token but not the prompt. `logprobs` has the natural logarithm of the probability of each
    token, under the distribution from which the sampler drew it. Both are arrays: a step of 16,384 completions of 2,048
    tokens takes 0.27 GB, and would take 2.4 GB as Python numbers.
    """

    prompt_id: int
    sample_id: int
    source: int  # see `Source`
    token_ids: TokenIds
    logprobs: LogProbs
    finish_reason: FinishReason
    weight_version: int
    reward: float | None = None
    answer: str | None = None  # what the grader extracted
    grader_error: str | None = None  # why the check failed, if it did; the reward is then 0
    kept: bool = True  # False: the explorer filter, or mask_failed, left it out of advantages and gradient

    def __eq__(self, other: object) -> bool:
        """Whether all fields are equal, and all values of the arrays."""
        return isinstance(other, Completion) and all(
            np.array_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)
        )

    __hash__ = None  # type: ignore[assignment]  # arrays have none


@dataclass(frozen=True)
class Group:
    """All G completions of one prompt. The `source` of a completion says which policy sampled it."""

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
    source_B: torch.Tensor  # int64, see `Source`
    prompt_length_B: torch.Tensor  # int64, tokens
    length_B: torch.Tensor  # int64, tokens of prompt and response; after them comes padding
    prompt_id_B: torch.Tensor  # int64
    sample_id_B: torch.Tensor  # int64
    old_logprobs_BS: torch.Tensor | None = None  # learner before this step's updates; None: nothing is updated yet
    ref_logprobs_BS: torch.Tensor | None = None  # learner before training
    group_logprob_B: torch.Tensor | None = None  # float32, of the row's whole group; see batching.group_expectation

    def __len__(self) -> int:
        return self.tokens_BT.size(0)

    def with_logprobs(self, old_BS: torch.Tensor | None, ref_BS: torch.Tensor | None) -> TrainBatch:
        return replace(self, old_logprobs_BS=old_BS, ref_logprobs_BS=ref_BS)

    def select(self, rows: Sequence[int] | slice) -> TrainBatch:
        """The batch made of these rows."""
        import torch  # late: who reads data needs none

        index = rows if isinstance(rows, slice) else torch.as_tensor(rows, dtype=torch.long)
        return self._map(lambda tensor: tensor[index])

    @classmethod
    def cat(cls, batches: Sequence[TrainBatch]) -> TrainBatch:
        """The rows of all batches, which have one length T, in order. They carry the same tensors."""
        import torch

        columns = {f.name: [getattr(batch, f.name) for batch in batches] for f in fields(cls)}
        return cls(**{name: torch.cat(its) for name, its in columns.items() if its[0] is not None})

    def to(self, device: torch.device) -> TrainBatch:
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> TrainBatch:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: function(value) for name, value in values.items() if value is not None})

    def chunks(self, size: int) -> Iterator[TrainBatch]:
        """Consecutive batches of `size` rows. The last one may have fewer."""
        for start in range(0, len(self), size):
            yield self.select(slice(start, start + size))

    def split(self, size: int) -> Iterator[TrainBatch]:
        """Consecutive batches of `size` rows. Raises ValueError if `size` does not divide the batch."""
        if len(self) % size:
            raise ValueError(f"a batch of {len(self)} sequences cannot be split into parts of {size}")
        for start in range(0, len(self), size):
            yield self.select(slice(start, start + size))
