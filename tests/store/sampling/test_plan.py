"""Which samples a job draws: each once, whatever was cut off before, and in files whose names never collide."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.algorithm.groups import explorer_seed
from s2l_nemo.store.sampling.plan import Chunk, Share, chunk_prompts, plan
from s2l_nemo.types import Prompt, SampleRequest

PROMPTS = [Prompt(10 * number, "q", "a", (number,)) for number in range(11)]


def missing(chunks: list[Chunk]) -> list[tuple[str, list[int], list[list[int]]]]:
    return [(one.name, [p.prompt_id for p in one.prompts], [list(its) for its in one.missing]) for one in chunks]


def test_a_plan_by_hand() -> None:
    chunks, done = plan(PROMPTS, Share(2, 4, chunk=2), 3, {})  # indices 1, 5, 9
    assert missing(chunks) == [
        ("shard0002of0004-chunk000000x0002-samples0000to0002.parquet", [10, 50], [[0, 1, 2]] * 2),
        ("shard0002of0004-chunk000001x0002-samples0000to0002.parquet", [90], [[0, 1, 2]]),
    ]
    assert (done, [len(one) for one in chunks]) == (0, [6, 3])
    assert chunks[1].requests(seed=4, explorer=2) == [
        SampleRequest(90, n, (9,), explorer_seed(4, 2, 90, n)) for n in range(3)
    ]


def test_more_samples_extend_and_fewer_change_nothing() -> None:
    stored = {prompt.prompt_id: {0, 1} for prompt in PROMPTS}
    chunks, done = plan(PROMPTS, Share(2, 4, chunk=2), 4, stored)
    assert missing(chunks) == [
        ("shard0002of0004-chunk000000x0002-samples0002to0003.parquet", [10, 50], [[2, 3]] * 2),
        ("shard0002of0004-chunk000001x0002-samples0002to0003.parquet", [90], [[2, 3]]),
    ]
    assert done == 6
    assert plan(PROMPTS, Share(2, 4, chunk=2), 1, stored) == ([], 3)


def test_a_job_without_prompts_is_complete() -> None:
    assert plan(PROMPTS[:2], Share(3, 4, chunk=2), 3, {}) == ([], 0)


def test_the_size_of_a_chunk() -> None:
    assert [chunk_prompts(samples, 256) for samples in (1, 16, 2000)] == [1024, 64, 1]


@given(
    commands=st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.lists(st.integers(0, 6), min_size=4)),
        max_size=6,
    ),
    samples=st.integers(1, 6),
)
def test_after_any_history_the_store_is_complete_without_a_repeated_name(
    commands: list[tuple[int, int, int, list[int]]], samples: int
) -> None:
    """Commands of (jobs, chunk, samples, chunks that each job writes before it is killed); at last one to the end."""
    stored: dict[int, set[int]] = {prompt.prompt_id: set() for prompt in PROMPTS}
    names: set[str] = set()
    for jobs, size, wanted, survive in [*commands, (1, 3, samples, [99])]:
        for job in range(1, jobs + 1):
            chunks, done = plan(PROMPTS, Share(job, jobs, size), wanted, stored)
            mine = PROMPTS[job - 1 :: jobs]
            assert done + sum(map(len, chunks)) == wanted * len(mine)
            for chunk in chunks[: survive[job - 1]]:
                assert chunk.name not in names
                names.add(chunk.name)
                for prompt, its in zip(chunk.prompts, chunk.missing, strict=True):
                    assert prompt in mine
                    assert stored[prompt.prompt_id].isdisjoint(its)
                    stored[prompt.prompt_id].update(its)
    assert all(its >= set(range(samples)) for its in stored.values())
    assert all(its == set(range(len(its))) for its in stored.values())  # no gaps
