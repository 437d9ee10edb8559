"""Which rank has which completion in the end, and what all of them know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.algorithm.groups import assemble_groups
from s2l_nemo.trainer.exchange import StepGroups, deliver
from s2l_nemo.types import Completion, Group, Prompt, Source
from tests.arrays import ids, lps
from tests.trainer.scripted import prompts
from tests.trainer.world import ThreadRanks, on_all_ranks


@st.composite
def steps(draw: st.DrawFn) -> tuple[list[Prompt], list[list[Completion]], list[int], list[int]]:
    """Prompts, what each rank has sampled, the replica of each rank, and that of each prompt."""
    replicas, size = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    replica_of = [rank % replicas for rank in range(replicas * size)]
    asked = [Prompt(n, "?", "!", tuple(range(draw(st.integers(1, 3))))) for n in draw(st.permutations(range(4)))]
    group, explorer = 3, draw(st.integers(0, 3))
    sampled: list[list[Completion]] = [[] for _ in replica_of]
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    for prompt in asked:
        for sample in range(group):
            length = draw(st.integers(1, 4))
            source = Source.EXPLORER if sample < explorer else Source.LEARNER
            logprobs = rng.standard_normal(length).astype(np.float32)
            completion = Completion(
                prompt.prompt_id, sample, source, ids(rng.integers(0, 2**31, length)), logprobs,
                draw(st.sampled_from(["stop", "length"])), 5,
            )  # fmt: skip
            sampled[draw(st.integers(0, len(replica_of) - 1))].append(completion)
    return asked, sampled, replica_of, [draw(st.integers(0, replicas - 1)) for _ in asked]


@given(steps())
def test_each_completion_comes_to_its_replica_bit_for_bit(
    step: tuple[list[Prompt], list[list[Completion]], list[int], list[int]],
) -> None:
    asked, sampled, replica_of, replica_P = step
    seen: list[Sequence[int]] = []

    def place(tokens_P: Sequence[int]) -> list[int]:
        seen.append(tokens_P)
        return replica_P

    found = on_all_ranks(lambda ranks: deliver(ranks, sampled[ranks.rank], asked, place), replica_of)
    everything = [completion for part in sampled for completion in part]
    tokens_P = [
        len(prompt.token_ids) + sum(len(c.token_ids) for c in everything if c.prompt_id == prompt.prompt_id)
        for prompt in asked
    ]
    assert seen == [tokens_P] * len(replica_of)
    for (own_prompts, completions), replica in zip(found, replica_of, strict=True):
        assert own_prompts == [prompt for prompt, its in zip(asked, replica_P, strict=True) if its == replica]
        expected = [c for c in everything if c.prompt_id in {prompt.prompt_id for prompt in own_prompts}]
        assert completions == expected
        assert {c.token_ids.dtype for c in completions} <= {np.dtype(np.int32)}
        assert {c.logprobs.dtype for c in completions} <= {np.dtype(np.float32)}


@given(steps())
def test_all_ranks_know_the_same_figures(
    step: tuple[list[Prompt], list[list[Completion]], list[int], list[int]],
) -> None:
    asked, sampled, replica_of, replica_P = step
    sources: dict[int, tuple[int, ...]] = {prompt.prompt_id: () for prompt in asked}
    for one in sorted((c for part in sampled for c in part), key=lambda c: c.sample_id):
        sources[one.prompt_id] += (one.source,)

    def job(ranks: ThreadRanks) -> StepGroups:
        own_prompts, completions = deliver(ranks, sampled[ranks.rank], asked, lambda _: replica_P)
        marked = [
            replace(
                completion,
                reward=completion.prompt_id + completion.sample_id / 4,
                kept=completion.sample_id != 1,
                grader_error="x" * completion.sample_id or None,
                answer="" if completion.sample_id == 2 else None,
            )
            for completion in completions
        ]
        own = assemble_groups(own_prompts, marked, sources=sources, learner_version=5)
        return StepGroups.gather(ranks, asked, own)

    by_key = {(c.prompt_id, c.sample_id): c for part in sampled for c in part}
    rows = [[by_key[prompt.prompt_id, sample] for sample in range(3)] for prompt in asked]
    for rank, groups in enumerate(on_all_ranks(job, replica_of)):
        assert list(groups.own) == [p for p, replica in enumerate(replica_P) if replica == replica_of[rank]]
        assert [replica_of[holder] for holder in groups.holder_P] == replica_P
        assert groups.source_PG.tolist() == [[c.source for c in row] for row in rows]
        assert groups.length_PG.tolist() == [[len(c.token_ids) for c in row] for row in rows]
        assert groups.truncated_PG.tolist() == [[c.finish_reason == "length" for c in row] for row in rows]
        assert groups.reward_PG.tolist() == [[c.prompt_id + c.sample_id / 4 for c in row] for row in rows]
        assert groups.failed_PG.tolist() == [[False, True, True]] * 4
        assert groups.answered_PG.tolist() == [[False, False, True]] * 4
        assert groups.kept_PG.tolist() == [[True, False, True]] * 4
        assert groups.reward_PG.dtype == torch.float64  # as the grader gave them


def test_a_completion_that_nobody_asked_for() -> None:
    stray = Completion(8, 0, Source.LEARNER, ids([1]), lps([-1.0]), "stop", 0)
    with pytest.raises(RuntimeError, match="prompt 8 was not asked for"):
        on_all_ranks(lambda ranks: deliver(ranks, [stray], prompts(7), lambda _: [0]), [0])


def test_a_prompt_without_completions() -> None:
    (prompt, _) = asked = prompts(7, 8)
    group = Group(prompt, (Completion(7, 0, Source.LEARNER, ids([1]), lps([-1.0]), "stop", 0, 1.0),))
    with pytest.raises(RuntimeError, match="prompt 8 has no completions"):
        on_all_ranks(lambda ranks: StepGroups.gather(ranks, asked, [group]), [0])
