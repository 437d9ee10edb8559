"""One engine replica: which rows decode, how long, and which wait. It jumps from one change of its rows to the next."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from s2l_nemo.planner.simulation.lengths import Answer
from s2l_nemo.planner.simulation.rates import DecodingRate, Room


@dataclass
class _Row:
    """An answer, with the tokens that it has."""

    answer: Answer
    tokens: int = 0
    last_step: int = 0  # of the replica, with which the row ends
    running: bool = False

    @property
    def context(self) -> int:
        return self.answer.prompt + self.tokens


@dataclass
class Work:
    """What a replica has done: its decoding steps, the bytes that they read, the FLOP of prompts, tokens, evictions."""

    steps: int = 0
    read: float = 0.0
    prefilled: float = 0.0
    tokens: int = 0  # of all decoding steps, so tokens / steps is the mean number of rows
    evicted: int = 0


@dataclass
class Replica:
    """An engine that decodes rows together, and admits waiting ones in order whenever there is room.

    Call `admit` after rows were offered, then `begin` for the seconds until rows next change, and `finish` at that
    time. A row whose cache no longer fits is put off, the newest one first: it waits again at the head, and then its
    prompt and its tokens are computed anew. A prompt is computed once, for all answers to it.
    """

    rate: DecodingRate
    room: Room
    work: Work = field(default_factory=Work)
    waiting: deque[_Row] = field(default_factory=deque)
    rows: int = 0
    _heap: list[tuple[int, int, _Row]] = field(default_factory=list)  # by last step
    _newest: list[_Row] = field(default_factory=list)
    _context: int = 0  # tokens of all running rows
    _step: int = 0
    _ahead: int = 0  # steps that `begin` has begun
    _prefill: float = 0.0  # FLOP that the next segment begins with
    _known: set[int] = field(default_factory=set)  # prompts that are computed
    _joined: int = 0

    @property
    def load(self) -> int:
        """Rows that run or wait."""
        return self.rows + len(self.waiting)

    def offer(self, answers: Iterable[Answer]) -> None:
        """Answers that this replica will sample, after those that wait."""
        self.waiting.extend(_Row(answer) for answer in answers)

    def has_room(self, context: int) -> bool:
        """Whether a row with so many tokens can join and go on for a step. One row always can."""
        if not self.rows:
            return True
        fits = self.room.tokens is None or self._context + context + self.rows + 1 <= self.room.tokens
        return fits and self.rows < self.room.rows

    def admit(self) -> None:
        """Waiting rows join, in order, while there is room for the first of them."""
        while self.waiting and self.has_room(self.waiting[0].context):
            row = self.waiting.popleft()
            if row.tokens or row.answer.prompt_id not in self._known:
                self._prefill += self.rate.prefill_flops(row.context)
                self._known.add(row.answer.prompt_id)
            row.running, row.last_step = True, self._step + row.answer.length - row.tokens
            self._joined += 1
            heapq.heappush(self._heap, (row.last_step, self._joined, row))
            self._newest.append(row)
            self.rows += 1
            self._context += row.context

    def begin(self) -> float:
        """Seconds, if nothing else uses the device, until a row ends or must be put off. 0 if no row runs."""
        if not self.rows:
            return 0.0
        self._drop_stale()
        steps = self._heap[0][0] - self._step
        if self.room.tokens is not None and self.rows > 1:
            steps = min(steps, (self.room.tokens - self._context) // self.rows)
        assert steps > 0
        read = self.rate.decoding_bytes(steps, self.rows, self._context)
        seconds = self.rate.seconds(steps, read, self._prefill)
        self.work.steps += steps
        self.work.read += read
        self.work.prefilled += self._prefill
        self.work.tokens += steps * self.rows
        self._ahead, self._prefill = steps, 0.0
        return seconds

    def finish(self) -> list[Answer]:
        """The answers that end with the segment that `begin` began. Rows whose cache no longer fits are put off."""
        self._step += self._ahead
        self._context += self._ahead * self.rows
        self._ahead = 0
        ended = []
        while self._heap and self._heap[0][0] <= self._step:
            row = heapq.heappop(self._heap)[2]
            if row.running and row.last_step <= self._step:
                self._leave(row)
                ended.append(row.answer)
        while self.room.tokens is not None and self.rows > 1 and self._context + self.rows > self.room.tokens:
            self._put_off()
        return ended

    def _put_off(self) -> None:
        while not self._newest[-1].running:
            self._newest.pop()
        row = self._newest.pop()
        self._leave(row)
        self.waiting.appendleft(row)
        self.work.evicted += 1

    def _leave(self, row: _Row) -> None:
        row.running = False
        row.tokens = row.answer.length - (row.last_step - self._step)
        self.rows -= 1
        self._context -= row.context

    def _drop_stale(self) -> None:
        """A row that was put off has left an entry behind, and another one if it runs again."""
        while not (self._heap[0][2].running and self._heap[0][2].last_step == self._heap[0][0]):
            heapq.heappop(self._heap)
