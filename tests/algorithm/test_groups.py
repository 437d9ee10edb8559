from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.algorithm.groups import (
    assemble_groups,
    explorer_seed,
    explorers_first,
    requests_of,
    sample_seed,
)
from s2l_nemo.algorithm.sharing import apportion
from s2l_nemo.types import Completion, Prompt, SampleRequest, Source
from tests.arrays import ids, lps

PROMPTS = [Prompt(prompt_id=i, text=f"q{i}", answer=str(i), token_ids=(i, i + 1)) for i in (7, 3, 5)]


E, L = Source.EXPLORER, Source.LEARNER


def requests(explorer: int, learner: int, step: int = 1) -> dict[int, list[SampleRequest]]:
    sources = [explorers_first(explorer, learner)] * len(PROMPTS)
    return requests_of(PROMPTS, sources, step=step, run_seed=1, drawn={})


def completions(explorer: int, learner: int, version: int = 9) -> list[Completion]:
    return [
        Completion(
            request.prompt_id, request.sample_id, source, ids([4, 5]), lps([-1.0, -2.0]), "stop",
            version if source == L else 0,
        )
        for source, its in requests(explorer, learner).items()
        for request in its
    ]  # fmt: skip


def planned(explorer: int, learner: int) -> dict[int, tuple[int, ...]]:
    return {prompt.prompt_id: explorers_first(explorer, learner) for prompt in PROMPTS}


def test_seed_is_the_same_in_every_process() -> None:
    assert sample_seed(1, 2, 3, 4) == 7597657864365363701
    code = "from s2l_nemo.algorithm.groups import sample_seed; print(sample_seed(1, 2, 3, 4))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(output) == sample_seed(1, 2, 3, 4)


def test_every_argument_changes_the_seed() -> None:
    seeds = {sample_seed(a, b, c, d) for a in range(6) for b in range(6) for c in range(6) for d in range(6)}
    assert len(seeds) == 6**4


@given(*[st.integers(-(2**63), 2**63 - 1)] * 4)
def test_seed_range(run_seed: int, step: int, prompt_id: int, sample_id: int) -> None:
    assert 0 <= sample_seed(run_seed, step, prompt_id, sample_id) < 2**63


def test_requests_of_a_mixed_group() -> None:
    by_source = requests_of(PROMPTS, [(1, 1, 0)] * 3, step=4, run_seed=8, drawn={(1, 3): 5, (2, 7): 9, (0, 3): 2})
    explorer, learner = by_source[1], by_source[0]
    assert [(r.prompt_id, r.sample_id) for r in explorer] == [(7, 0), (7, 1), (3, 0), (3, 1), (5, 0), (5, 1)]
    assert [(r.prompt_id, r.sample_id) for r in learner] == [(7, 2), (3, 2), (5, 2)]
    assert learner[1] == SampleRequest(3, 2, (3, 4), sample_seed(8, 4, 3, 2), draw=2)
    # Explorer 1 has drawn five samples of prompt 3 in earlier steps, and none of the others; so has the learner.
    assert [r.draw for r in explorer] == [0, 1, 5, 6, 0, 1]
    assert explorer[2] == SampleRequest(3, 0, (3, 4), explorer_seed(8, 1, 3, 5), draw=5)


def test_a_group_that_has_begun_is_filled_up() -> None:
    by_source = requests_of(PROMPTS[:2], [(2, 2), (0, 0)], step=4, run_seed=8, drawn={}, first_sample=3)
    assert [(r.prompt_id, r.sample_id, r.draw) for r in by_source[2]] == [(7, 3, 0), (7, 4, 1)]
    assert [(r.prompt_id, r.sample_id) for r in by_source[0]] == [(3, 3), (3, 4)]


@given(explorer=st.integers(0, 16), learner=st.integers(0, 16), step=st.integers(0, 99))
def test_a_learner_sample_keeps_its_seed_whatever_the_explorer_does(explorer: int, learner: int, step: int) -> None:
    mixed, alone = requests(explorer, learner, step), requests(0, explorer + learner, step)
    asked = [{replace(one, draw=0) for one in its.get(L, [])} for its in (mixed, alone)]
    assert asked[0] <= asked[1]
    assert len(mixed.get(E, [])) == explorer * len(PROMPTS)


def test_no_two_samples_of_a_run_have_one_seed() -> None:
    by_learner = [sample_seed(1, step, 7, n) for step in range(9) for n in range(9)]  # 0: validation
    by_explorers = [explorer_seed(1, k, 7, n) for k in range(1, 9) for n in range(9)]
    assert len({*by_learner, *by_explorers}) == 9 * 9 + 8 * 9


@pytest.mark.parametrize(
    ("count", "shares", "expected"),
    [
        (4, (1.0,), [4]),
        (4, (1.0, 1.0), [2, 2]),
        (5, (1.0, 1.0), [3, 2]),  # a tie goes to the first one
        (10, (0.7, 0.2, 0.1), [7, 2, 1]),  # 0.7 * 10 is 7.000000000000001 in floats
        (2, (0.4, 0.35, 0.25), [1, 1, 0]),
        (0, (1.0, 3.0), [0, 0]),
    ],
)
def test_shares_of_several_explorers(count: int, shares: tuple[float, ...], expected: list[int]) -> None:
    assert apportion(count, shares) == expected


@given(count=st.integers(0, 64), shares=st.lists(st.floats(0.01, 100), min_size=1, max_size=6))
def test_every_sample_has_an_explorer(count: int, shares: list[float]) -> None:
    parts = apportion(count, shares)
    assert sum(parts) == count
    assert all(abs(part - count * share / sum(shares)) < 1 + 1e-6 for part, share in zip(parts, shares, strict=True))


def test_explorers_come_first() -> None:
    assert explorers_first(3, 2, (1.0, 2.0)) == (1, 2, 2, 0, 0)
    assert explorers_first(0, 2, ()) == (0, 0)
    assert explorers_first(3, 2, ()) == (0, 0, 0, 0, 0)  # no explorer: the learner samples all


def test_assemble_groups_orders_prompts_and_samples() -> None:
    shuffled = completions(2, 1)[::-1]
    groups = assemble_groups(PROMPTS, shuffled, sources=planned(2, 1), learner_version=9)
    assert [group.prompt.prompt_id for group in groups] == [7, 3, 5]
    for group in groups:
        assert [completion.sample_id for completion in group.completions] == [0, 1, 2]
        assert [c.source for c in group.completions] == [Source.EXPLORER, Source.EXPLORER, Source.LEARNER]
        assert {completion.prompt_id for completion in group.completions} == {group.prompt.prompt_id}


@pytest.mark.parametrize(("explorer", "learner"), [(0, 4), (4, 0), (1, 3)])
def test_assemble_groups_of_any_mix(explorer: int, learner: int) -> None:
    groups = assemble_groups(
        PROMPTS, completions(explorer, learner), sources=planned(explorer, learner), learner_version=9
    )
    assert all(len(group.completions) == 4 for group in groups)


def test_a_learner_completion_of_old_weights_is_refused() -> None:
    good = completions(2, 1)
    stale = [replace(c, weight_version=8) if (c.prompt_id, c.sample_id) == (3, 2) else c for c in good]
    with pytest.raises(RuntimeError, match="prompt 3 sample 2 was sampled by learner version 8, not by 9"):
        assemble_groups(PROMPTS, stale, sources=planned(2, 1), learner_version=9)


def test_incomplete_and_repeated_groups_are_refused() -> None:
    good = completions(2, 2)
    for gone in range(len(good)):
        with pytest.raises(RuntimeError, match=f"prompt {good[gone].prompt_id} lacks samples"):
            assemble_groups(PROMPTS, good[:gone] + good[gone + 1 :], sources=planned(2, 2), learner_version=9)
    with pytest.raises(RuntimeError, match="prompt 7 sample 1 came twice"):
        assemble_groups(PROMPTS, [*good, good[1]], sources=planned(2, 2), learner_version=9)
    with pytest.raises(RuntimeError, match="prompt 7 sample 3 was not asked for"):
        assemble_groups(PROMPTS, good, sources=planned(2, 1), learner_version=9)
    with pytest.raises(RuntimeError, match="prompt 5 sample 0 was not asked for"):
        assemble_groups(PROMPTS[:2], good, sources=planned(2, 2), learner_version=9)


def test_wrong_sources_are_refused() -> None:
    good = completions(2, 2)
    swap = {0: replace(good[0], source=Source.LEARNER, weight_version=9)}
    one_explorer_less = [swap.get(i, c) for i, c in enumerate(good)]
    with pytest.raises(RuntimeError, match="prompt 7 sample 0 is of source 0, not of 1"):
        assemble_groups(PROMPTS, one_explorer_less, sources=planned(2, 2), learner_version=9)
    other_samples = [replace(c, sample_id=3 - c.sample_id) for c in good]
    with pytest.raises(RuntimeError, match="is of source 1, not of 0"):
        assemble_groups(PROMPTS, other_samples, sources=planned(2, 2), learner_version=9)
