"""Ranks that stop or are slow: the rules by hand, and real processes with short limits."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from s2l_nemo.platform.watchdog import Sign, Watch
from tests.platform.test_launch import run

OTHER = Sign(count=1, host="node2", pid=77, waits=False, place="  f.py:3 in load", stack="  f.py:3 in load")
WORKS = replace(OTHER, host="node1", pid=5)
WAITS = replace(WORKS, waits=True, place="  d.py:9 in barrier", stack="  d.py:9 in barrier")


def test_no_sign_for_the_limit_is_a_loss() -> None:
    watch = Watch(3, limit_s=10.0)
    watch.look(0.0, OTHER, WORKS)
    for now in (4.0, 8.0, 9.9):
        watch.look(now, OTHER, WORKS)
        assert watch.lost(now) is None
    watch.look(10.0, OTHER, WORKS)
    assert watch.lost(10.0) == (
        "rank 3 (process 77 on node2) has given no sign of life for run.watch_s=10 seconds: it was stopped, or its "
        "machine is gone. It was here:\n  f.py:3 in load"
    )


def test_a_new_sign_starts_the_time_anew() -> None:
    watch = Watch(3, limit_s=10.0)
    watch.look(0.0, OTHER, WORKS)
    watch.look(4.0, replace(OTHER, count=2), WORKS)
    watch.look(9.0, replace(OTHER, count=2), WORKS)
    watch.look(13.0, replace(OTHER, count=2), WORKS)
    assert watch.lost(13.0) is None
    watch.look(14.0, replace(OTHER, count=2), WORKS)
    assert watch.lost(14.0) is not None


def test_a_rank_that_never_gives_a_sign_is_lost_too() -> None:
    watch = Watch(3, limit_s=10.0)
    for now in (50.0, 54.0, 58.0):
        watch.look(now, None, WORKS)
    assert watch.lost(59.0) is None
    assert watch.lost(60.0) == (
        "rank 3 has given no sign of life for run.watch_s=10 seconds: it was stopped, or its machine is gone"
    )


def test_a_rank_that_has_ended_is_not_lost() -> None:
    watch = Watch(3, limit_s=10.0)
    watch.look(0.0, replace(OTHER, done=True), WORKS)
    assert watch.lost(200.0) is None


def test_who_was_stopped_itself_counts_from_its_return() -> None:
    """All processes of a machine may be frozen, and go on."""
    watch = Watch(3, limit_s=10.0)
    watch.look(0.0, OTHER, WAITS)
    assert watch.look(1000.0, OTHER, WAITS) is None
    assert watch.lost(1000.0) is None


def test_a_rank_for_which_another_waits_is_slow_once_at_each_place() -> None:
    watch = Watch(3, limit_s=100.0)
    signs = [replace(OTHER, count=count) for count in range(1, 9)]
    assert watch.look(0.0, signs[0], WORKS) is None
    assert watch.look(30.0, signs[1], WAITS) is None
    assert watch.look(39.0, signs[2], WAITS) is None
    assert watch.look(40.0, signs[3], WAITS) == (
        "rank 3 is slow: another has waited 10 s for it. It is here:\n  f.py:3 in load"
    )
    assert watch.look(60.0, signs[4], WAITS) is None
    elsewhere = replace(signs[5], place="  g.py:1 in save", stack="  g.py:1 in save")
    assert watch.look(70.0, elsewhere, WAITS) == (
        "rank 3 is slow: another has waited 40 s for it. It is here:\n  g.py:1 in save"
    )


@pytest.mark.parametrize(
    ("own", "other"),
    [(WORKS, OTHER), (WAITS, replace(OTHER, waits=True)), (WAITS, replace(OTHER, done=True))],
)
def test_nobody_is_slow_if_none_waits_or_all_do(own: Sign, other: Sign) -> None:
    watch = Watch(3, limit_s=100.0)
    for count, now in enumerate((0.0, 20.0, 40.0), start=1):
        assert watch.look(now, replace(other, count=count), own) is None


def test_waiting_at_another_place_is_another_wait() -> None:
    watch = Watch(3, limit_s=100.0)
    for count in range(1, 9):
        own = replace(WAITS, stack=f"  d.py:{count} in barrier")
        assert watch.look(9.0 * count, replace(OTHER, count=count), own) is None


def test_a_sign_shows_where_the_main_thread_is() -> None:
    sign = Sign.of(4, threading.get_ident())
    assert (sign.count, sign.waits, sign.done) == (4, False, False)
    assert sign.place.endswith("in of")
    assert "in test_a_sign_shows_where_the_main_thread_is" in sign.stack
    assert Sign.of(1, thread=-1).stack == ""


WATCHED = """
    import torch
    from s2l_nemo.platform import rendezvous, watchdog
    rendezvous.join(600.0, 600.0)
    board = rendezvous.open_store(rank, {world}, time.monotonic() + 60, 60.0)
    shown = lambda text: say(text)
    def work_of_rank():
        {work}
    with watchdog.watching(board, rank, {world}, {limit}, launch.end_rank, shown):
        torch.distributed.barrier()
        if rank == {which}:
            work_of_rank()
        torch.distributed.barrier()
    say('done')
"""


@pytest.mark.parametrize("which", [0, 1])
def test_r14_a_stopped_rank_is_named_with_its_stack_and_ends_the_run(which: int) -> None:
    stops = "os.kill(os.getpid(), signal.SIGSTOP)"
    # its neighbour should have seen it here before
    body = WATCHED.format(world=3, limit=8.0, which=which, work=f"time.sleep(4); {stops}")
    code, _, err = run(body, world=3)
    assert code == 1
    assert err.startswith(f"rank {which} ")
    assert "has given no sign of life for run.watch_s=8 seconds" in err
    assert "in work_of_rank" in err


def test_r16_a_slow_rank_is_told_and_the_run_goes_on() -> None:
    code, out, err = run(WATCHED.format(world=2, limit=30.0, which=1, work="time.sleep(9)"))
    assert (code, err) == (0, "")
    assert out.count("rank 1 is slow: another has waited") == 1
    assert "in work_of_rank" in out
    assert out.count("done") == 2
