"""The KV cache's budget: which rows decode at once, and which are thrown out, under both policies of the scheduler.

The tokens of a request depend on its seed and its prompt alone, so they are sampled first and the schedule is played
afterwards with their lengths.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from tensorrt_llm._data import CapacitySchedulerPolicy
from tensorrt_llm._misuse import Misuse


@dataclass
class Request:
    """One request's lengths, and how far it has come. A preempted one keeps its tokens and reads them again."""

    prompt: int
    new: int  # tokens that it will generate
    max_new: int
    done: int = 0


@dataclass(frozen=True)
class Schedule:
    """What a batch of requests did to the cache."""

    steps: int
    most_rows: int  # that decoded at once
    preemptions: int


def play(
    requests: Sequence[Request], blocks: int, tokens_per_block: int, rows: int, policy: CapacitySchedulerPolicy
) -> Schedule:
    """Steps until every request has its tokens. Raises Misuse if one request alone exceeds the cache."""
    utilise = policy is CapacitySchedulerPolicy.MAX_UTILIZATION

    def needed(request: Request) -> int:
        tokens = request.prompt + (request.done + 1 if utilise else request.max_new)
        return -(-tokens // tokens_per_block)

    for request in requests:
        if -(-(request.prompt + request.max_new) // tokens_per_block) > blocks:
            raise Misuse(f"{request.prompt} + {request.max_new} tokens never fit a KV cache of {blocks} blocks")
    waiting, running = deque(requests), list[Request]()
    steps = most = preemptions = 0
    while waiting or running:
        while sum(map(needed, running)) > blocks:  # the youngest goes; it comes back first
            waiting.appendleft(running.pop())
            preemptions += 1
        while waiting and len(running) < rows and sum(map(needed, running)) + needed(waiting[0]) <= blocks:
            running.append(waiting.popleft())
        steps, most = steps + 1, max(most, len(running))
        for request in running:
            request.done += 1
        running = [request for request in running if request.done < request.new]
    return Schedule(steps, most, preemptions)
