"""Two replicas and a few requests, by hand. A decoding step takes a second."""

from __future__ import annotations

import random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.planner.simulation.engine import Replica
from s2l_nemo.planner.simulation.lengths import Answer, Model
from s2l_nemo.planner.simulation.rates import Room
from s2l_nemo.planner.simulation.rollout import Dispatch, Slot, play
from s2l_nemo.planner.simulation.timeline import Interval, Phase, Timeline
from tests.planner.simulation.world import E, L, answers, rate, sampled


def test_shares_by_hand() -> None:
    """The first replica samples 3 and 2 tokens, the second 1."""
    end, replicas, timeline = sampled([3, 1, 2], 2)
    assert (end, replicas) == (5, [0, 1, 0])
    assert timeline.intervals == [[Interval(Phase.learner, 0, 5)], [Interval(Phase.learner, 0, 1)]]
    assert timeline.idle(0, 5) == 0.4


def test_a_queue_by_hand() -> None:
    """The second replica is free after a second and takes the third request."""
    end, replicas, timeline = sampled([3, 1, 2], 2, dispatch=Dispatch.queue)
    assert (end, replicas) == (3, [0, 1, 1])
    assert timeline.idle(0, 3) == 0


def test_chunks_by_hand() -> None:
    """Both long answers are one chunk. A queue hands them to both replicas."""
    end, replicas, _ = sampled([3, 3, 1, 1, 1, 1], 2, dispatch=Dispatch.chunks)
    assert (end, replicas) == (6, [0, 0, 1, 1, 1, 1])
    end, replicas, _ = sampled([3, 3, 1, 1, 1, 1], 2, dispatch=Dispatch.queue)
    assert (end, replicas) == (5, [0, 1, 0, 1, 0, 1])


def test_a_queue_fills_replicas_evenly() -> None:
    """With rows to spare, a replica that took all it has room for would leave the other one idle."""
    _, replicas, _ = sampled([5, 5, 5, 5], 2, rows=10, dispatch=Dispatch.queue)
    assert replicas == [0, 1, 0, 1]


def test_a_queue_can_be_slower() -> None:
    """It does not know that the last answer is the longest. Such cases are few: see below."""
    assert sampled([2, 1, 3, 4], 2)[0] == 5
    assert sampled([2, 1, 3, 4], 2, dispatch=Dispatch.queue)[0] == 6


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_a_queue_is_not_slower_on_average(rows: int) -> None:
    rng = random.Random(5)
    draws = [[round(rng.lognormvariate(3, 0.7)) + 1 for _ in range(64)] for _ in range(40)]
    share, queue = (
        mean(sampled(lengths, 4, rows, dispatch, of=rate(1, 0.01))[0] for lengths in draws)
        for dispatch in (Dispatch.share, Dispatch.queue)
    )
    assert queue <= share


def test_a_slow_device() -> None:
    assert sampled([3, 1, 2], 2, slowness=2.0)[0] == 10
    end, replicas, _ = sampled([3, 1, 2], 2, dispatch=Dispatch.queue, slowness=2.0)
    assert (end, replicas) == (6, [0, 1, 1])


def both(explorer: list[int], learner: list[int]) -> tuple[float, list[Interval]]:
    """Two engines of one device, with rows for all."""
    timeline = Timeline(1)
    slot = Slot([0], {model: Replica(rate(), Room(9)) for model in Model})
    requests = {E: answers(explorer, model=E), L: answers(learner)}
    end, _ = play([slot], requests, dispatch=Dispatch.share, chunk=1, start=0.0, timeline=timeline)
    return end, timeline.intervals[0]


def test_two_engines_share_a_device() -> None:
    """Each goes at half the speed while both run."""
    assert both([2], [2]) == (4, [Interval(Phase.both, 0, 4)])
    assert both([1], [3]) == (4, [Interval(Phase.both, 0, 2), Interval(Phase.learner, 2, 4)])
    assert both([3], [1]) == (4, [Interval(Phase.both, 0, 2), Interval(Phase.explorer, 2, 4)])


LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=24)
REPLICAS = st.integers(1, 5)
DISPATCH = st.sampled_from(Dispatch)


@given(LENGTHS, REPLICAS, st.integers(1, 4), DISPATCH, st.integers(1, 5))
def test_every_request_is_sampled_and_no_time_is_lost(
    lengths: list[int], replicas: int, rows: int, dispatch: Dispatch, chunk: int
) -> None:
    end, sampler, timeline = sampled(lengths, replicas, rows, dispatch, chunk)
    assert len(sampler) == len(lengths)
    for device, intervals in enumerate(timeline.intervals):
        waits = [0.0, *(one.end for one in intervals)], [*(one.start for one in intervals), end]
        waiting = sum(start - before for before, start in zip(*waits, strict=True))
        assert waiting >= 0
        assert timeline.busy(device, 0, end) + waiting == pytest.approx(end)
        mine = [length for length, replica in zip(lengths, sampler, strict=True) if replica == device]
        assert max(mine, default=0) <= timeline.busy(device, 0, end) <= sum(mine)
        if rows == 1:
            assert timeline.busy(device, 0, end) == sum(mine)


@given(LENGTHS, REPLICAS, DISPATCH, st.integers(2, 9))
def test_time_is_in_proportion_to_the_bandwidth(
    lengths: list[int], replicas: int, dispatch: Dispatch, times: int
) -> None:
    one = sampled(lengths, replicas, 2, dispatch, of=rate(1, 0.5))[0]
    assert sampled(lengths, replicas, 2, dispatch, of=rate(times, times * 0.5))[0] == pytest.approx(times * one)


@given(LENGTHS, REPLICAS, st.floats(1, 4))
def test_a_slow_device_does_not_help(lengths: list[int], replicas: int, slowness: float) -> None:
    end, _, _ = sampled(lengths, replicas, 2)
    slow, _, _ = sampled(lengths, replicas, 2, slowness=slowness)
    assert end <= slow <= slowness * end * (1 + 1e-12)


@given(LENGTHS, REPLICAS)
def test_a_queue_is_at_most_twice_the_least(lengths: list[int], replicas: int) -> None:
    """Graham's bound of list scheduling: (2 - 1/m) times what no order could beat."""
    least = max(max(lengths), sum(lengths) / replicas)
    assert sampled(lengths, replicas, dispatch=Dispatch.queue)[0] <= (2 - 1 / replicas) * least + 1e-9


def test_answers_are_told_apart_by_prompt_and_sample() -> None:
    assert answers([4, 5], of_prompt=2) == [Answer(0, 0, L, 1, 4), Answer(0, 1, L, 1, 5)]
