from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.planner.simulation.engine import Replica
from s2l_nemo.planner.simulation.lengths import Answer
from s2l_nemo.planner.simulation.rates import Room
from tests.planner.simulation.world import answers, rate


def run_out(replica: Replica, offered: list[Answer]) -> tuple[float, list[int]]:
    """Seconds until all have ended, and their lengths in the order in which they end."""
    replica.offer(offered)
    replica.admit()
    seconds, ended = 0.0, []
    while segment := replica.begin():
        seconds += segment
        ended += [answer.length for answer in replica.finish()]
        replica.admit()
    return seconds, ended


def test_one_row() -> None:
    replica = Replica(rate(weights=10, kv=1), Room(4))
    assert run_out(replica, answers([3], prompt=2)) == (3 * 10 + 2 + 3 + 4, [3])
    assert (replica.work.steps, replica.work.tokens, replica.work.read) == (3, 3, 39)


def test_rows_of_unequal_length() -> None:
    """One step of both, 10 + 1 + 1; then the longer one alone, 10 + 2 and 10 + 3."""
    assert run_out(Replica(rate(10, 1), Room(4)), answers([1, 3])) == (37, [1, 3])


def test_a_row_waits_for_a_free_one() -> None:
    """Rows 2 and 3 run for 2 steps; row 1 joins for 1 more, and then one of 3 goes on with it."""
    assert run_out(Replica(rate(1), Room(2)), answers([2, 3, 1])) == (3, [2, 3, 1])


def test_a_prompt_is_computed_once_for_its_answers() -> None:
    one = rate(weights=0, prefill_flop_s=1.0)
    flops = one.prefill_flops(5)
    # 2 tokens·layers·(2hq + 2h·kv + 3h·ffn) + 4·layers·pairs·q
    assert flops == 2 * 5 * 2 * (2 * 4 * 6 + 2 * 4 * 3 + 3 * 4 * 5) + 4 * 2 * 12.5 * 6
    shared = Replica(one, Room(9))
    seconds, _ = run_out(shared, answers([1, 1, 1, 1], prompt=5, of_prompt=2))
    assert seconds == 2 * flops == shared.work.prefilled


def test_a_row_whose_cache_does_not_fit_is_put_off() -> None:
    """6 tokens hold both rows for 2 steps. The second waits until the first has ended, and is computed anew."""
    replica = Replica(rate(1, prefill_flop_s=1e9), Room(9, tokens=6))
    seconds, ended = run_out(replica, answers([3, 3]))
    assert ended == [3, 3]
    assert (replica.work.steps, replica.work.tokens, replica.work.evicted) == (4, 6, 1)
    of = replica.rate.prefill_flops
    assert replica.work.prefilled == 2 * of(1) + of(3)  # two prompts of 1 token, then a prompt and 2 tokens
    assert seconds == 4 + replica.work.prefilled / 1e9


def test_a_row_that_never_fits_runs_alone() -> None:
    replica = Replica(rate(1), Room(9, tokens=2))
    assert run_out(replica, answers([7, 5])) == (12, [7, 5])
    assert replica.work.evicted == 0


LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=20)


@given(LENGTHS, st.integers(1, 6), st.none() | st.integers(4, 90))
def test_every_token_is_decoded_once(lengths: list[int], rows: int, tokens: int | None) -> None:
    replica = Replica(rate(1), Room(rows, tokens))
    seconds, ended = run_out(replica, answers(lengths))
    assert sorted(ended) == sorted(lengths)
    assert replica.work.tokens == sum(lengths)
    assert seconds == replica.work.steps
    assert max(lengths) <= replica.work.steps <= sum(lengths)
    assert replica.load == 0


@given(LENGTHS, st.integers(1, 6), st.integers(1, 30))
def test_more_work_takes_longer(lengths: list[int], rows: int, more: int) -> None:
    before, _ = run_out(Replica(rate(5, 1), Room(rows)), answers(lengths))
    after, _ = run_out(Replica(rate(5, 1), Room(rows)), answers([*lengths, more]))
    assert after > before


@given(LENGTHS, st.integers(1, 6))
def test_more_rows_do_not_take_more_steps(lengths: list[int], rows: int) -> None:
    steps = [run_out(Replica(rate(1), Room(count)), answers(lengths))[0] for count in (rows, rows + 1)]
    assert steps[1] <= steps[0]


@given(LENGTHS, st.integers(1, 6), st.floats(0, 5), st.floats(0.1, 5))
def test_seconds_are_those_of_the_work(lengths: list[int], rows: int, weights: float, kv: float) -> None:
    """Step by step: all rows that run read the weights once and their contexts."""
    waiting, running, total = [*lengths], list[list[int]](), 0.0  # a row: context, tokens left
    while waiting or running:
        while waiting and len(running) < rows:
            running.append([1, waiting.pop(0)])
        total += weights + kv * sum(context for context, _ in running)
        running = [[context + 1, left - 1] for context, left in running if left > 1]
    seconds, _ = run_out(Replica(rate(weights, kv), Room(rows)), answers(lengths))
    assert abs(seconds - total) < 1e-9 * total
