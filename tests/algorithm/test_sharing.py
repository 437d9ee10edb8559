"""Shares of the ranks, and replicas of groups."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.algorithm.sharing import balanced_replicas, shares
from s2l_nemo.types import SampleRequest


@given(sizes=st.lists(st.integers(1, 9), max_size=12), world=st.integers(1, 8), random=st.randoms())
def test_shares_are_a_balanced_partition(sizes: list[int], world: int, random: Random) -> None:
    requests = [SampleRequest(p, s, (p,), seed=0) for p, size in enumerate(sizes) for s in range(size)]
    random.shuffle(requests)
    parts = shares(requests, world)
    assert len(parts) == world
    assert len(requests) == sum(len(part) for part in parts)
    assert set(requests) == {request for part in parts for request in part}
    counts = [len(part) for part in parts]
    if len(sizes) < world:
        assert max(counts) - min(counts) <= 1
    else:
        assert max(counts) - min(counts) <= max(sizes, default=0)
        ranks_of = [
            {rank for rank, part in enumerate(parts) for r in part if r.prompt_id == p} for p in range(len(sizes))
        ]
        assert all(len(ranks) == 1 for ranks in ranks_of)


def test_share_of_equal_groups() -> None:
    requests = [SampleRequest(prompt, sample, (1,), seed=0) for prompt in (7, 3, 5) for sample in range(4)]
    assert [[r.prompt_id for r in part] for part in shares(requests, 2)] == [[7] * 4 + [5] * 4, [3] * 4]
    cut = [[r.prompt_id for r in part] for part in shares(requests, 4)]
    assert cut == [[7, 7, 7], [7, 3, 3], [3, 3, 5], [5, 5, 5]]


def test_the_largest_groups_go_first() -> None:
    requests = [
        SampleRequest(prompt, sample, (1,), seed=0)
        for prompt, size in ((7, 1), (3, 1), (5, 2))
        for sample in range(size)
    ]
    assert [[r.prompt_id for r in part] for part in shares(requests, 2)] == [[5, 5], [7, 3]]


@pytest.mark.parametrize(
    ("tokens", "world", "expected"),
    [
        ([5, 5, 5, 5, 5, 5], 3, [0, 1, 2, 0, 1, 2]),
        ([9, 1, 1, 1], 2, [0, 1, 1, 0]),  # equally many each, however long
        ([1, 2, 3, 10, 4, 6], 2, [0, 1, 0, 0, 1, 1]),  # 10 + 3 + 1 and 6 + 4 + 2
        ([7, 8], 1, [0, 0]),
    ],
)
def test_replicas_by_hand(tokens: list[int], world: int, expected: list[int]) -> None:
    assert balanced_replicas(tokens, world, len(tokens)) == expected


def test_every_optimizer_step_is_balanced() -> None:
    assert balanced_replicas([1, 9, 1, 1, 8, 1, 1, 1], 2, per_update=4) == [1, 0, 1, 0, 0, 1, 1, 0]


@given(st.integers(1, 4), st.data())
def test_every_group_has_one_replica(world: int, data: st.DataObject) -> None:
    share = data.draw(st.integers(1, 5))
    tokens = data.draw(st.lists(st.integers(1, 99), min_size=world * share, max_size=world * share))
    replica_P = balanced_replicas(tokens, world, len(tokens))
    assert sorted(replica_P) == sorted([*range(world)] * share)
    totals = [sum(tokens[p] for p in range(len(tokens)) if replica_P[p] == replica) for replica in range(world)]
    assert max(totals) - min(totals) <= max(tokens)
