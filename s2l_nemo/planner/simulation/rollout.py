"""Plays the rollouts of a step: requests go to replicas, replicas share devices, and events come in their order."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from s2l_nemo.algorithm.sharing import shares
from s2l_nemo.planner.simulation.engine import Replica
from s2l_nemo.planner.simulation.lengths import Answer, Model
from s2l_nemo.planner.simulation.timeline import Phase, Timeline

Requests = Mapping[Model, Sequence[Answer]]
Sampler = dict[tuple[int, int], int]  # the slot that has sampled each (prompt, sample)


class Dispatch(str, Enum):
    """How requests come to the replicas of a model."""

    share = "share"  # each gets its share at the start, whole prompts, as in the trainer
    chunks = "chunks"  # a replica takes the next few when it has none waiting and a free row
    queue = "queue"  # the same, one at a time


@dataclass
class Slot:
    """Devices with an engine of one model, or of both, which then share the bandwidth.

    `slowness` multiplies all its times.
    """

    devices: Sequence[int]
    replicas: dict[Model, Replica]
    slowness: float = 1.0
    left: dict[Model, float] = field(default_factory=dict)  # of running segments: seconds, had it the devices alone
    now: float = 0.0  # until when it has been played
    since: float = 0.0  # when the present set of models began

    @property
    def phase(self) -> Phase:
        """What the devices do at present."""
        return Phase.both if len(self.left) == 2 else PHASE_OF[next(iter(self.left))]

    def next_event(self) -> float:
        """When the first of its running segments ends."""
        return self.now + min(self.left.values()) * len(self.left) * self.slowness

    def play_until(self, time: float) -> list[Model]:
        """Goes on to `time`, the next event. Returns the models whose segment ends with it."""
        passed = min(self.left.values())
        self.left = {model: left - passed for model, left in self.left.items()}
        self.now = time
        return [model for model, left in self.left.items() if left <= 0]


PHASE_OF = {Model.explorer: Phase.explorer, Model.learner: Phase.learner}


class Queue:
    """The requests of a model that no replica has yet, in chunks."""

    def __init__(self, answers: Sequence[Answer], chunk: int) -> None:
        self._chunks = deque(answers[start : start + chunk] for start in range(0, len(answers), chunk))

    def give_first(self, replicas: Sequence[Replica]) -> None:
        """Fills the replicas, those with the fewest rows first: if rows are to spare, all get equally many."""
        order = [(replica.load, index) for index, replica in enumerate(replicas)]
        while order:
            _, index = heapq.heappop(order)
            if self._give(replicas[index]):
                heapq.heappush(order, (replicas[index].load, index))

    def fill(self, replica: Replica) -> None:
        """Gives a replica whose rows have changed as many chunks as it wants."""
        replica.admit()
        while self._give(replica):
            pass

    def _give(self, replica: Replica) -> bool:
        """Gives the next chunk if the replica has nothing waiting and room for its first request."""
        if not self._chunks or replica.waiting or not replica.has_room(self._chunks[0][0].prompt):
            return False
        replica.offer(self._chunks.popleft())
        replica.admit()
        return True


def play(
    slots: Sequence[Slot],
    requests: Requests,
    *,
    dispatch: Dispatch,
    chunk: int,
    start: float,
    timeline: Timeline,
) -> tuple[float, Sampler]:
    """Samples all requests. Returns when the last one ends, and who has sampled each.

    Each slot has a replica of every model in `requests`, and none has begun.
    """
    queues = {
        model: _handed_out([slot.replicas[model] for slot in slots], its, dispatch, chunk)
        for model, its in requests.items()
    }
    events: list[tuple[float, int]] = []
    for index, slot in enumerate(slots):
        slot.now = slot.since = start
        slot.left = {model: seconds for model in requests if (seconds := slot.replicas[model].begin())}
        if slot.left:
            heapq.heappush(events, (slot.next_event(), index))
    sampler: Sampler = {}
    end = start
    while events:
        end, index = heapq.heappop(events)
        slot = slots[index]
        before = slot.phase
        sampler |= {(answer.prompt_id, answer.sample_id): index for answer in _go_on(slot, end, queues)}
        if slot.left:
            heapq.heappush(events, (slot.next_event(), index))
        if not slot.left or slot.phase is not before:
            for device in slot.devices:
                timeline.add(device, before, slot.since, end)
            slot.since = end
    return end, sampler


def _go_on(slot: Slot, time: float, queues: Mapping[Model, Queue]) -> list[Answer]:
    """Plays the slot until its next event, `time`, and begins what follows. Returns the answers that end."""
    ended = []
    for model in slot.play_until(time):
        replica = slot.replicas[model]
        ended += replica.finish()
        queues[model].fill(replica)
        del slot.left[model]
        if seconds := replica.begin():
            slot.left[model] = seconds
    return ended


def _handed_out(replicas: Sequence[Replica], answers: Sequence[Answer], dispatch: Dispatch, chunk: int) -> Queue:
    """Gives the replicas of a model what they begin with. Returns what is left."""
    if dispatch is Dispatch.share:
        for replica, its in zip(replicas, shares(answers, len(replicas)), strict=True):
            replica.offer(its)
            replica.admit()
        return Queue((), 1)
    queue = Queue(answers, 1 if dispatch is Dispatch.queue else chunk)
    queue.give_first(replicas)
    return queue
