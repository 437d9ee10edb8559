from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.algorithm.groups import assemble_groups, mixed_requests, sample_seed
from s2l_nemo.types import Completion, Prompt, SampleRequest, Source
from tests.arrays import ids, lps

PROMPTS = [Prompt(prompt_id=i, text=f"q{i}", answer=str(i), token_ids=(i, i + 1)) for i in (7, 3, 5)]


def completions(prompts: list[Prompt], explorer: int, learner: int, version: int = 9) -> list[Completion]:
    both = mixed_requests(prompts, explorer=explorer, learner=learner, step=1, run_seed=1)
    return [
        Completion(request.prompt_id, request.sample_id, source, ids([4, 5]), lps([-1.0, -2.0]), "stop", weight_version)
        for requests, source, weight_version in zip(both, (Source.EXPLORER, Source.LEARNER), (0, version), strict=True)
        for request in requests
    ]


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


def test_mixed_requests() -> None:
    explorer, learner = mixed_requests(PROMPTS, explorer=2, learner=1, step=4, run_seed=8)
    assert [(r.prompt_id, r.sample_id) for r in explorer] == [(7, 0), (7, 1), (3, 0), (3, 1), (5, 0), (5, 1)]
    assert [(r.prompt_id, r.sample_id) for r in learner] == [(7, 2), (3, 2), (5, 2)]
    assert learner[1] == SampleRequest(3, 2, (3, 4), sample_seed(8, 4, 3, 2))


@given(explorer=st.integers(0, 16), learner=st.integers(0, 16), step=st.integers(0, 99))
def test_a_sample_keeps_its_seed_whoever_draws_it(explorer: int, learner: int, step: int) -> None:
    mixed = mixed_requests(PROMPTS, explorer=explorer, learner=learner, step=step, run_seed=1)
    _, alone = mixed_requests(PROMPTS, explorer=0, learner=explorer + learner, step=step, run_seed=1)
    assert set(mixed[0]) | set(mixed[1]) == set(alone)
    assert len(mixed[0]) == explorer * len(PROMPTS)


def test_assemble_groups_orders_prompts_and_samples() -> None:
    shuffled = completions(PROMPTS, explorer=2, learner=1)[::-1]
    groups = assemble_groups(PROMPTS, shuffled, group_size=3, learner_version=9)
    assert [group.prompt.prompt_id for group in groups] == [7, 3, 5]
    for group in groups:
        assert [completion.sample_id for completion in group.completions] == [0, 1, 2]
        assert [c.source for c in group.completions] == [Source.EXPLORER, Source.EXPLORER, Source.LEARNER]
        assert {completion.prompt_id for completion in group.completions} == {group.prompt.prompt_id}


@pytest.mark.parametrize(("explorer", "learner"), [(0, 4), (4, 0), (1, 3)])
def test_assemble_groups_of_any_mix(explorer: int, learner: int) -> None:
    groups = assemble_groups(PROMPTS, completions(PROMPTS, explorer, learner), group_size=4, learner_version=9)
    assert all(len(group.completions) == 4 for group in groups)


def test_a_learner_completion_of_old_weights_is_refused() -> None:
    good = completions(PROMPTS, explorer=2, learner=1)
    stale = [replace(c, weight_version=8) if (c.prompt_id, c.sample_id) == (3, 2) else c for c in good]
    with pytest.raises(RuntimeError, match="prompt 3 sample 2 was sampled by learner version 8, not by 9"):
        assemble_groups(PROMPTS, stale, group_size=3, learner_version=9)


def test_incomplete_and_repeated_groups_are_refused() -> None:
    good = completions(PROMPTS, explorer=2, learner=2)
    for gone in range(len(good)):
        with pytest.raises(RuntimeError, match=f"prompt {good[gone].prompt_id} lacks samples"):
            assemble_groups(PROMPTS, good[:gone] + good[gone + 1 :], group_size=4, learner_version=9)
    with pytest.raises(RuntimeError, match="prompt 7 sample 1 came twice"):
        assemble_groups(PROMPTS, [*good, good[1]], group_size=4, learner_version=9)
    with pytest.raises(RuntimeError, match="prompt 7 sample 3 was not asked for"):
        assemble_groups(PROMPTS, good, group_size=3, learner_version=9)
    with pytest.raises(RuntimeError, match="prompt 5 sample 0 was not asked for"):
        assemble_groups(PROMPTS[:2], good, group_size=4, learner_version=9)


def test_wrong_sources_are_refused() -> None:
    good = completions(PROMPTS, explorer=2, learner=2)
    swap = {0: replace(good[0], source=Source.LEARNER, weight_version=9)}
    one_explorer_less = [swap.get(i, c) for i, c in enumerate(good)]
    with pytest.raises(RuntimeError, match="are the explorer's"):
        assemble_groups(PROMPTS, one_explorer_less, group_size=4, learner_version=9)
    other_samples = [replace(c, sample_id=3 - c.sample_id) for c in good]
    with pytest.raises(RuntimeError, match="not the first 2 samples, and only those"):
        assemble_groups(PROMPTS, other_samples, group_size=4, learner_version=9)
