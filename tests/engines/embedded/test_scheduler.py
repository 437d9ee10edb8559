"""The scheduler without a model: hand-worked batches. A request's prompt is named by its tokens."""

from __future__ import annotations

from s2l_nemo.engines.embedded.scheduler import Decode, Join, Moves, Row, Scheduler, Step
from s2l_nemo.types import SampleRequest, SamplingParams

STOP = 9
PARAMS = SamplingParams(max_new_tokens=3, stop_token_ids=(STOP,))


def scheduler(prompts: list[tuple[int, ...]], max_rows: int) -> Scheduler:
    requests = [SampleRequest(index, 0, prompt, seed=index) for index, prompt in enumerate(prompts)]
    return Scheduler(requests, PARAMS, max_rows)


def indices(rows: list[Row]) -> list[int]:
    return [row.index for row in rows]


def run(one: Scheduler, tokens: list[int]) -> tuple[Step, list[int], Moves | None]:
    """One step in which the model gives these tokens: the step, who finished, and the moves."""
    step = one.schedule()
    finished, moves = one.postprocess(step, tokens, [-0.5] * len(tokens))
    return step, indices(finished), moves


def test_nothing_to_do() -> None:
    assert not scheduler([], 4).busy
    assert scheduler([], 4).slots == 0


def test_longest_prompts_join_first_and_equal_ones_together() -> None:
    one = scheduler([(1,), (2, 2), (1, 3), (2, 2), (1,)], 4)
    assert one.slots == 4
    step = one.schedule()
    assert isinstance(step, Join)
    assert indices(step.rows) == [1, 3, 2, 0]  # equal ones in the order of the requests
    assert (step.first_slot, step.next_prompt) == (0, (1,))


def test_no_more_slots_than_requests() -> None:
    assert scheduler([(1,), (1,)], 64).slots == 2


def test_rows_decode_until_they_stop_or_are_full() -> None:
    one = scheduler([(1, 1), (2,)], 2)
    step, finished_indices, moves = run(one, [5, 6])
    assert isinstance(step, Join)
    assert (finished_indices, moves) == ([], None)
    step = one.schedule()
    assert isinstance(step, Decode)
    assert indices(step.rows) == [0, 1]
    assert [row.last_position for row in step.rows] == [2, 1]  # of the tokens 5 and 6
    finished, moves = one.postprocess(step, [5, STOP], [-1.0, -2.0])
    assert indices(finished) == [1]
    assert (finished[0].tokens, finished[0].logprobs) == ([6, STOP], [-0.5, -2.0])
    assert moves == Moves(sources=[], targets=[], free=range(1, 2))  # the last row leaves no gap
    step, finished_indices, moves = run(one, [5])
    assert indices(step.rows) == finished_indices == [0]  # three tokens
    assert moves == Moves([], [], range(1))
    assert not one.busy


def test_the_last_rows_fill_the_gaps() -> None:
    one = scheduler([(1,) * length for length in (7, 6, 5, 4, 3)], 5)
    _, finished, moves = run(one, [STOP, 5, STOP, 5, 5])
    assert finished == [0, 2]
    # Rows 3 and 4 go from slots 3 and 4 to slots 0 and 2. The longer one has its 4 prompt tokens in the cache.
    assert moves == Moves(sources=[3, 4], targets=[0, 2], free=range(3, 5))
    assert indices(one.schedule().rows) == [3, 1, 4]


def test_a_gap_at_the_end_needs_no_move() -> None:
    one = scheduler([(1,) * length for length in (4, 3, 2)], 3)
    _, finished, moves = run(one, [5, 5, STOP])
    assert finished == [2]
    assert moves == Moves([], [], range(2, 3))


def test_one_more_gap_than_rows_to_fill_it() -> None:
    one = scheduler([(1,) * length for length in (4, 3, 2)], 3)
    _, finished, moves = run(one, [STOP, STOP, 5])
    assert finished == [0, 1]
    assert moves == Moves(sources=[2], targets=[0], free=range(1, 3))


def test_waiting_rows_join_when_an_eighth_of_the_slots_is_free() -> None:
    """16 slots: two must be free."""
    one = scheduler([(1,)] * 19, 16)
    run(one, [5] * 16)
    step, finished, _ = run(one, [STOP] + [5] * 15)
    assert isinstance(step, Decode)
    assert finished == [0]
    step, finished, moves = run(one, [5] * 14 + [STOP])  # one slot is free: the others go on
    assert isinstance(step, Decode)
    assert len(finished) == 15  # three tokens, or the stop token
    assert moves == Moves([], [], range(15))
    step = one.schedule()
    assert isinstance(step, Join)
    assert (indices(step.rows), step.first_slot, step.next_prompt) == ([16, 17, 18], 0, None)


def test_rows_join_behind_those_that_run() -> None:
    one = scheduler([(1, 1), (2, 2), (3, 3), (3, 3)], 2)
    step, finished, _ = run(one, [5, STOP])
    assert indices(step.rows) == [2, 3]
    assert finished == [3]
    step = one.schedule()
    assert isinstance(step, Join)
    assert (indices(step.rows), step.first_slot, step.next_prompt) == ([1], 1, (1, 1))
    ended, moves = one.postprocess(step, [STOP], [-0.5])
    assert indices(ended) == [1]
    assert moves == Moves([], [], range(1, 2))
    step = one.schedule()
    assert (indices(step.rows), step.first_slot) == ([0], 1)
