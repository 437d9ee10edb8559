"""Which sequences decode, which join, and in which slot each is. Knows no model and no tensor.

A slot is a row of the batch and of the KV cache. Slots 0..n-1 are always those of the n running rows.

    while scheduler.busy:
        step = scheduler.schedule()
        tokens, logprobs = ...  # the model runs the step
        finished, moves = scheduler.postprocess(step, tokens, logprobs)
        ...  # the cache follows the moves
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from s2l_nemo.types import SampleRequest, SamplingParams

_REFILL_FRACTION = 8  # new rows join when 1/8 of the slots are free: fewer, larger prefills

PromptTokens = tuple[int, ...]


@dataclass
class Row:
    """A sequence from its request to its last token."""

    index: int  # of its request
    request: SampleRequest
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    done: bool = False

    @property
    def prompt(self) -> PromptTokens:
        return self.request.prompt_token_ids

    @property
    def last_position(self) -> int:
        """Position of the newest token, whose keys and values are not in the cache yet."""
        return len(self.prompt) + len(self.tokens) - 1


@dataclass(frozen=True)
class Join:
    """Rows that start: the model reads their prompts."""

    rows: list[Row]
    first_slot: int  # of the first row; the others follow it
    next_prompt: PromptTokens | None  # of the first row that still waits


@dataclass(frozen=True)
class Decode:
    """Rows that go on: the model reads the newest token of each. Row b is in slot b."""

    rows: list[Row]
    first_slot: int = 0


Step = Join | Decode


@dataclass(frozen=True)
class Moves:
    """What happens to the slots after a step: row `sources[i]` moves to slot `targets[i]`, then `free` are empty."""

    sources: list[int]
    targets: list[int]
    free: range  # slots that were in use and are not any more


class Scheduler:
    """The waiting and the running rows of one call of `generate`."""

    def __init__(self, requests: Sequence[SampleRequest], params: SamplingParams, max_rows: int) -> None:
        """At most `max_rows` rows run at once."""
        rows = [Row(index, request) for index, request in enumerate(requests)]
        # Longest first and equal prompts side by side: little padding in a prefill, and one prompt open at a time.
        rows.sort(key=lambda row: (len(row.prompt), row.prompt), reverse=True)
        self.slots = min(max_rows, len(rows))
        self._params = params
        self._waiting = deque(rows)
        self._running: list[Row] = []

    @property
    def busy(self) -> bool:
        """Whether any row is not finished."""
        return bool(self._waiting or self._running)

    def schedule(self) -> Step:
        """The next step. Waiting rows join if enough slots are free for them; else the running rows go on."""
        used = len(self._running)
        free = self.slots - used
        if not self._waiting or free < max(1, self.slots // _REFILL_FRACTION):
            return Decode(list(self._running))
        joining = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
        self._running += joining
        return Join(joining, used, self._waiting[0].prompt if self._waiting else None)

    def postprocess(
        self, step: Step, tokens: Sequence[int], logprobs: Sequence[float]
    ) -> tuple[list[Row], Moves | None]:
        """Appends one token to each row of the step. Returns the rows that it ends, and how the others close the gaps.

        No moves are returned if no row has ended.
        """
        for row, token, logprob in zip(step.rows, tokens, logprobs, strict=True):
            row.tokens.append(token)
            row.logprobs.append(logprob)
            row.done = token in self._params.stop_token_ids or len(row.tokens) == self._params.max_new_tokens
        finished = [row for row in step.rows if row.done]
        return finished, self._close_gaps() if finished else None

    def _close_gaps(self) -> Moves:
        """The last running rows move into the slots of those that are done."""
        rows = self._running
        active = [slot for slot, row in enumerate(rows) if not row.done]
        holes = [slot for slot in range(len(active)) if rows[slot].done]
        movers = active[len(active) - len(holes) :]
        for hole, mover in zip(holes, movers, strict=True):
            rows[hole] = rows[mover]
        self._running = rows[: len(active)]
        return Moves(movers, holes, range(len(active), len(rows)))
