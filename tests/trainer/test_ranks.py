"""Which rank samples what, what it is worth, and what all ranks get."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from s2l_nemo.rewards.grader import GradeItem
from s2l_nemo.trainer.grading import Grading, graded
from s2l_nemo.trainer.ranks import Ranks
from s2l_nemo.types import Completion, SampleRequest, Source
from tests.arrays import ids, lps
from tests.trainer.scripted import ScriptedGrader, ScriptedTime, decode, prompts
from tests.trainer.world import ThreadRanks, on_all_ranks

REQUESTS = [SampleRequest(prompt, sample, (1,), seed=0) for prompt in (5, 6, 7, 8) for sample in range(2)]


def shares(world: int, leaders: tuple[int, ...]) -> list[list[int]]:
    return [[one.prompt_id for one in Ranks(rank, leaders, (0,) * world).share(REQUESTS)] for rank in range(world)]


@pytest.mark.parametrize(
    ("world", "leaders", "expected"),
    [
        (1, (0,), [[5, 5, 6, 6, 7, 7, 8, 8]]),
        (2, (0, 1), [[5, 5, 7, 7], [6, 6, 8, 8]]),
        (4, (0, 2), [[5, 5, 7, 7], [], [6, 6, 8, 8], []]),  # servers of two nodes with two ranks each
        (2, (1,), [[], [5, 5, 6, 6, 7, 7, 8, 8]]),
    ],
)
def test_leaders_share_whole_prompts(world: int, leaders: tuple[int, ...], expected: list[list[int]]) -> None:
    assert shares(world, leaders) == expected


def completion(prompt: int, *tokens: int) -> Completion:
    return Completion(prompt, 0, Source.LEARNER, ids(tokens), lps([-1.0] * len(tokens)), "stop", 0)


def test_one_rank_is_everyone() -> None:
    ranks = Ranks(0, (0,), (0,))
    assert (ranks.world, ranks.replica, ranks.members(0)) == (1, 0, [0])
    assert ranks.gather("mine") == ["mine"]
    assert ranks.gather_in_replica("mine") == ["mine"]
    assert ranks.swap({}, {}) == {}


def test_replicas_of_several_ranks() -> None:
    """As Megatron numbers them with TP 2, PP 1 and DP 2, and with TP 1, PP 2 and DP 2."""
    assert [Ranks(3, (), (0, 0, 1, 1)).members(replica) for replica in (0, 1)] == [[0, 1], [2, 3]]
    assert [Ranks(3, (), (0, 1, 0, 1)).members(replica) for replica in (0, 1)] == [[0, 2], [1, 3]]
    assert Ranks(2, (), (0, 1, 0, 1)).replica == 0


def test_grades_come_to_the_completions() -> None:
    grader = ScriptedGrader(ScriptedTime())
    grading = Grading(decode, grader)
    completions = [completion(9, 1, 4), completion(7, 0, 3), completion(9, 9)]
    grades = grading.grades(completions, prompts(7, 8, 9))
    one, two, three = (graded(*pair) for pair in zip(completions, grades, strict=True))
    assert grader.items == [
        GradeItem(9, "question 9", "answer 9", "1 4"),
        GradeItem(7, "question 7", "answer 7", "0 3"),
        GradeItem(9, "question 9", "answer 9", "9"),
    ]
    assert (one.reward, one.answer, one.grader_error) == (1.0, "4", None)
    assert (two.reward, two.answer, two.grader_error) == (0.0, "3", None)
    assert (three.reward, three.answer, three.grader_error) == (0.0, None, "killed")
    assert (one.prompt_id, one.token_ids.tolist(), one.logprobs.tolist()) == (9, [1, 4], [-1.0, -1.0])
    assert not grader.is_closed
    grading.close()
    assert grader.is_closed


def test_work_ends_when_every_rank_has_done_its_own() -> None:
    """Rank 0 waits for a word of rank 1, which has nothing to do but to wait for rank 0."""
    beats: list[int] = []
    go_on = threading.Event()

    def first() -> str:
        assert go_on.wait(600)
        return "first"

    class Counting(ThreadRanks):
        def gather(self, value: Any) -> list[Any]:
            gathered = super().gather(value)
            if self.rank == 1:
                beats.append(1)
                if len(beats) == 3:  # by then rank 0 has told twice more that it works
                    go_on.set()
            return gathered

    def job(ranks: ThreadRanks) -> list[str]:
        counting = Counting(ranks.rank, ranks.leaders, ranks.replica_of, beat_s=0.01, shared=ranks.shared)
        return counting.work(*([first, lambda: "second"] if ranks.rank == 0 else []))

    assert on_all_ranks(job, replica_of=(0, 0), leaders=(0,)) == [["first", "second"], []]
    assert len(beats) >= 3


def test_an_error_in_work_does_not_wait_for_other_jobs() -> None:
    ended = threading.Event()

    def fails() -> None:
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        Ranks(0, (0,), (0,)).work(lambda: ended.wait(600), fails)
    assert not ended.is_set()
    ended.set()
