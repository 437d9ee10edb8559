"""A store that is open: its facts, and its rollouts by prompt and position.

A draw reads the file, so of each rollout the process holds no more than where it is: 7 bytes, 4 more in a store of more
than 8 GiB, 2 more if a rollout has over 65,535 tokens.
Axes: R rollouts, P prompts that have any, K rollouts asked for.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from s2l_nemo.errors import UserError
from s2l_nemo.store.facts import StoreFacts, hash_prompts, read_facts, sampling_json
from s2l_nemo.store.index import Index, OnShard, open_index
from s2l_nemo.store.prompts import prompt_difference, read_prompts
from s2l_nemo.types import Completion, FinishReason, LogProbs, Prompt, SamplingParams
from s2l_nemo.types import TokenIds as Tokens

INDEX = "index"
_GAP = 65536  # bytes: to read over them costs less than another read
Ints = npt.NDArray[np.int64]


class Store:
    """The rollouts of one explorer. Position n of a prompt is its sample n."""

    def __init__(self, folder: Path, facts: StoreFacts, index: Index) -> None:
        """`open` makes one."""
        self.folder = folder
        self.facts = facts
        self._data = index.data
        rows_R = index.rows_R
        self._word_R, self._length_R = _words(rows_R["offset"]), _lengths(rows_R["length"])
        self._stopped_R, self._reward_R = rows_R["stopped"].copy(), index.rewards_R
        prompt_R = rows_R["prompt_id"]
        first_P = np.flatnonzero(np.diff(prompt_R, prepend=-1))  # ids are not negative
        self._prompt_P = np.array(prompt_R[first_P])
        self._bound_P = np.append(first_P, len(rows_R))  # the rows of prompt p are bound[p] to bound[p + 1]

    @classmethod
    def open(cls, folder: str | Path, *, index: str | Path | None = None, on_shard: OnShard | None = None) -> Store:
        """Opens the store in `folder`. The first opening after its shards changed reads all of them and keeps an index.

        `index` is the folder for that, FOLDER/index by default. `on_shard` is told how many shards it has read. Raises
        UserError if there is no store, if a file of it is bad, or if the index cannot be written.
        """
        folder = Path(folder)
        facts = read_facts(folder)
        home = folder / INDEX if index is None else Path(index)

        def prompt_ids() -> set[int]:
            return {prompt.prompt_id for prompt in read_prompts(folder, facts)}

        return cls(folder, facts, open_index(folder, home, facts, prompt_ids, on_shard))

    def close(self) -> None:
        """Closes its file."""
        self._data.close()

    @property
    def has_logprobs(self) -> bool:
        """Whether the sampler's log-probs are known. If not, completions have zeros in their place."""
        return self.facts.has_logprobs

    @property
    def rollouts(self) -> int:
        """Their number."""
        return len(self._length_R)

    def prompts(self) -> Iterator[Prompt]:
        """The questions, ids ascending, also those that have not been sampled yet. Raises UserError as `open`."""
        return read_prompts(self.folder, self.facts)

    @property
    def counts(self) -> dict[int, int]:
        """Stored samples of each prompt that has any."""
        return dict(zip(self._prompt_P.tolist(), np.diff(self._bound_P).tolist(), strict=True))

    def count(self, prompt_id: int) -> int:
        """Stored samples of one prompt."""
        return len(self._rows(prompt_id))

    @property
    def samples(self) -> int:
        """The samples that every prompt of the store has at least."""
        return int(np.diff(self._bound_P).min()) if 0 < len(self._prompt_P) == self.facts.prompts else 0

    @property
    def most(self) -> int:
        """The samples of the prompt that has most of them."""
        return int(np.diff(self._bound_P).max()) if len(self._prompt_P) else 0

    def rewards(self, prompt_id: int) -> npt.NDArray[np.float32]:
        """The stored rewards of a prompt, in the order of its samples. Training does not use them: it grades again."""
        return np.array(self._reward_R[self._slice(prompt_id)])

    def lengths(self, prompt_id: int) -> npt.NDArray[np.int32]:
        """Tokens of each rollout of a prompt, in the order of its samples."""
        return self._length_R[self._slice(prompt_id)].astype(np.int32)

    def stopped(self, prompt_id: int) -> npt.NDArray[np.bool_]:
        """Whether each rollout of a prompt ended by itself, in the order of its samples."""
        return self._stopped_R[self._slice(prompt_id)]

    def check(
        self,
        *,
        tokenizer_hash: str | None = None,
        prompts: Sequence[Prompt] | None = None,
        samples: int | None = None,
        params: SamplingParams | None = None,
        needs_logprobs: bool = False,
    ) -> None:
        """Raises UserError, with the first difference, if the store does not fit what a run has.

        The run's prompts may be a part of the store's; each must have the same text, answer and token ids. Each must
        have `samples` rollouts. `params` must be those of the store, but its limit may be lower: a rollout that is cut
        is what would have been sampled with that limit. `needs_logprobs` says that a loss reads them.
        """
        facts, what = self.facts, f"the store {self.folder}"
        if tokenizer_hash is not None and tokenizer_hash != facts.tokenizer_hash:
            raise UserError(
                f"{what} was sampled with tokenizer {facts.tokenizer_hash[:12]} ({facts.model}), the run has "
                f"{tokenizer_hash[:12]}: choose a store of the learner's family"
            )
        if params is not None:
            self.check_sampling(params)
        if needs_logprobs and not self.has_logprobs:
            raise UserError(
                f"{what} has no log-probs of its sampler, and the run's importance rule reads them: set "
                "algorithm.importance=learner_old, or sample a store with recipes/sample_explorer.py"
            )
        if prompts is not None and hash_prompts(prompts) != facts.prompts_hash:
            found = prompt_difference(self.prompts(), prompts)
            if found:
                raise UserError(f"{what} does not fit the run's prompts: {found}; give both the same data.* keys")
        if samples is not None:
            self._check_samples(samples, [one.prompt_id for one in (prompts or self.prompts())])

    def check_sampling(self, params: SamplingParams) -> None:
        """Raises UserError if rollouts sampled with `params` are not among the store's; see `check`."""
        stored, wanted = sampling_json(self.facts.sampling), sampling_json(params)
        for name, value in wanted.items():
            fits = value <= stored[name] if name == "max_response_length" else value == stored[name]
            if not fits:
                raise UserError(
                    f"the store {self.folder} was sampled with {name}={stored[name]}, the run asks for {value}: give "
                    "the run the store's value, or sample another store"
                )

    def draw(
        self,
        prompt_id: int,
        positions: Sequence[int],
        *,
        source: int,
        sample_ids: Sequence[int] | None = None,
        limit: int | None = None,
    ) -> list[Completion]:
        """The completions at these positions of a prompt, see `draw_all`. Their sample ids are by default positions."""
        return self.draw_all(
            [prompt_id] * len(positions),
            positions,
            sample_ids=positions if sample_ids is None else sample_ids,
            source=source,
            limit=limit,
        )

    def draw_all(
        self,
        prompt_ids: Sequence[int],
        positions: Sequence[int],
        *,
        sample_ids: Sequence[int],
        source: int,
        limit: int | None = None,
    ) -> list[Completion]:
        """One completion for each prompt id, position and sample id: ungraded, of weight version 0 as any explorer's.

        It is cut to `limit` tokens. Raises UserError if a prompt has no such position.
        """
        rows_K = self._find(np.asarray(prompt_ids, np.int64), np.asarray(positions, np.int64))
        lengths, stopped = self._length_R[rows_K].tolist(), self._stopped_R[rows_K].tolist()
        completions: list[Completion] = [None] * len(rows_K)  # type: ignore[list-item]  # each is set below
        with _without_collector():
            for words, floats, part in self._reads(rows_K):
                for index, at in part:
                    length, stops = lengths[index], stopped[index]
                    tokens = words[at : at + length]
                    logprobs = np.zeros(length, np.float32) if floats is None else floats[at + length : at + 2 * length]
                    if limit is not None and length > limit:
                        tokens, logprobs, stops = tokens[:limit], logprobs[:limit], False
                    reason: FinishReason = "stop" if stops else "length"
                    completions[index] = _completion(
                        prompt_ids[index], sample_ids[index], source, tokens, logprobs, reason
                    )
        return completions

    def _rows(self, prompt_id: int) -> range:
        place = int(self._prompt_P.searchsorted(prompt_id))
        if place == len(self._prompt_P) or self._prompt_P[place] != prompt_id:
            return range(0)
        return range(int(self._bound_P[place]), int(self._bound_P[place + 1]))

    def _slice(self, prompt_id: int) -> slice:
        rows = self._rows(prompt_id)
        return slice(rows.start, rows.stop)

    def _find(self, prompt_K: Ints, position_K: Ints) -> Ints:
        """The rows of prompts and positions."""
        if not self.rollouts:
            place_K, is_there_K = np.zeros_like(prompt_K), np.zeros(len(prompt_K), np.bool_)
            count_K = place_K
        else:
            place_K = np.minimum(self._prompt_P.searchsorted(prompt_K), len(self._prompt_P) - 1)
            count_K = np.where(self._prompt_P[place_K] == prompt_K, np.diff(self._bound_P)[place_K], 0)
            is_there_K = (position_K >= 0) & (position_K < count_K)
        if not is_there_K.all():
            wrong = int(np.argmin(is_there_K))
            raise UserError(
                f"the store {self.folder} has {count_K[wrong]} samples of prompt {prompt_K[wrong]}, and position "
                f"{position_K[wrong]} was asked for: sample more with recipes/sample_explorer.py"
            )
        rows_K: Ints = self._bound_P[place_K] + position_K
        return rows_K

    def _reads(self, rows_K: Ints) -> Iterator[tuple[Tokens, LogProbs | None, list[tuple[int, int]]]]:
        """Reads what the rows hold: words of 4 bytes, the same as floats, and pairs (index into rows, first word).

        Rollouts of a prompt that lie together, or nearly, come in one read, because a read has its own cost.
        """
        each = 2 if self.has_logprobs else 1  # words of a token
        order_K = np.argsort(self._word_R[rows_K], kind="stable")
        start_K = 4 * self._word_R[rows_K][order_K].astype(np.int64)
        end_K = start_K + 4 * each * self._length_R[rows_K][order_K].astype(np.int64)
        prompt_K = self._bound_P.searchsorted(rows_K[order_K], side="right")
        is_new_K = np.ones(len(rows_K), np.bool_)
        is_new_K[1:] = (prompt_K[1:] != prompt_K[:-1]) | (start_K[1:] > end_K[:-1] + _GAP)
        firsts = np.flatnonzero(is_new_K)
        read_K = np.repeat(firsts, np.diff(firsts, append=len(rows_K)))
        pairs = list(zip(order_K.tolist(), ((start_K - start_K[read_K]) // 4).tolist(), strict=True))
        bounds = [*firsts.tolist(), len(rows_K)]
        ends = np.maximum.reduceat(end_K, firsts).tolist() if len(firsts) else []
        for first, last, begin, end in zip(bounds, bounds[1:], start_K[firsts].tolist(), ends, strict=False):
            words = np.empty((end - begin) // 4, np.int32)
            if os.preadv(self._data.fileno(), [words.data], begin) != end - begin:
                raise UserError(f"the index of {self.folder} was cut while it was open: remove it and start again")
            yield words, words.view(np.float32) if self.has_logprobs else None, pairs[first:last]

    def _check_samples(self, samples: int, prompt_ids: Sequence[int]) -> None:
        few = [prompt_id for prompt_id in prompt_ids if self.count(prompt_id) < samples]
        if few:
            raise UserError(
                f"the store {self.folder} has {self.count(few[0])} samples of prompt {few[0]}, the run needs {samples} "
                f"({len(few)} of {len(prompt_ids)} prompts have too few): sample more with recipes/sample_explorer.py "
                f"samples={samples}"
            )


def _words(offset_R: Ints) -> npt.NDArray[np.signedinteger[Any]]:
    """Offsets in words of 4 bytes, which four bytes hold up to 8 GiB of tokens and log-probs."""
    fits = not len(offset_R) or int(offset_R.max()) // 4 <= np.iinfo(np.int32).max
    return (offset_R // 4).astype(np.int32 if fits else np.int64)


def _lengths(length_R: npt.NDArray[np.int32]) -> npt.NDArray[np.integer[Any]]:
    """Tokens of each rollout, in two bytes where they fit."""
    fits = not len(length_R) or int(length_R.max()) <= np.iinfo(np.uint16).max
    return length_R.astype(np.uint16 if fits else np.int32)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Pauses Python's collector of circles. There are none among new completions, and thousands of new objects would
    send it through the whole heap: 65 ms with torch loaded, twice the time of the draw."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _completion(
    prompt_id: int, sample_id: int, source: int, token_ids: Tokens, logprobs: LogProbs, finish_reason: FinishReason
) -> Completion:
    """As Completion(...), in a third of the time: the constructor of a frozen dataclass makes a call for each field."""
    completion = object.__new__(Completion)
    vars(completion).update(
        prompt_id=prompt_id,
        sample_id=sample_id,
        source=source,
        token_ids=token_ids,
        logprobs=logprobs,
        finish_reason=finish_reason,
        weight_version=0,
    )
    return completion
