from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.algorithm.schedule import SCHEDULES, Outcome, ScheduleConfig, Signal, check_t_mix
from s2l_nemo.errors import UserError
from tests.schedules import made

names = st.sampled_from(SCHEDULES.names())


def explorer_counts(
    name: str, *, steps: int, t_mix: int | None = None, alpha: float = 1.0, group_size: int = 16
) -> list[int]:
    schedule = made(name, steps=steps, t_mix=t_mix, alpha=alpha)
    return [schedule(step, group_size).explorer for step in range(1, steps + 1)]


def test_linear_gives_the_numbers_of_the_paper() -> None:
    counts = explorer_counts("linear", steps=16)
    assert counts == [16, 14, 12, 10, 7, 5, 3, 0] + [0] * 8
    assert Fraction(sum(counts), 16 * 16) == Fraction(67, 256)


def test_linear_ceiling_is_exact_where_floats_are_not() -> None:
    split = made("linear", steps=16, t_mix=8, alpha=1.0)(7, 7)
    assert (split.explorer, split.learner) == (1, 6)
    assert split.alpha == 1 / 7


@given(t_mix=st.integers(2, 60), group_size=st.integers(1, 64), data=st.data())
def test_linear_equals_integer_formula(t_mix: int, group_size: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(1, t_mix))
    split = made("linear", steps=t_mix, t_mix=t_mix, alpha=1.0)(step, group_size)
    assert split.explorer == -((-group_size * (t_mix - step)) // (t_mix - 1))


@pytest.mark.parametrize("name", ["linear", "cosine", "abrupt"])
def test_short_transitions(name: str) -> None:
    assert explorer_counts(name, steps=3, t_mix=0) == [0, 0, 0]
    assert explorer_counts(name, steps=3, t_mix=1) == [16, 0, 0]


@pytest.mark.parametrize(
    ("name", "alpha", "t_mix", "expected"),
    [
        ("abrupt", 1.0, 2, [10, 10, 0, 0]),
        ("abrupt", 0.25, 3, [3, 3, 3, 0]),
        ("constant", 0.7, 2, [7, 7, 7, 7]),
        ("constant", 0.1, 0, [1, 1, 1, 1]),
        ("constant", 0.0, 2, [0, 0, 0, 0]),
        ("constant", 1.0, 2, [10, 10, 10, 10]),
        ("none", 1.0, 2, [0, 0, 0, 0]),
    ],
)
def test_other_schedules(name: str, alpha: float, t_mix: int, expected: list[int]) -> None:
    assert explorer_counts(name, steps=4, t_mix=t_mix, alpha=alpha, group_size=10) == expected


def test_constant_reads_alpha_as_written() -> None:
    # 0.07 * 100 is 7.000000000000001 in floats, whose ceiling is 8.
    assert explorer_counts("constant", steps=1, alpha=0.07, group_size=100) == [7]


def test_cosine_by_hand() -> None:
    # alpha at thirds of the way: 1, 3/4, 1/4, 0; the half is exact too.
    assert explorer_counts("cosine", steps=4, t_mix=4, group_size=8) == [8, 6, 2, 0]
    assert explorer_counts("cosine", steps=3, t_mix=3, group_size=8) == [8, 4, 0]


@given(name=names, t_mix=st.integers(0, 50), alpha=st.floats(0, 1), group_size=st.integers(1, 64))
def test_every_schedule_splits_the_group_and_never_rises(name: str, t_mix: int, alpha: float, group_size: int) -> None:
    schedule = made(name, steps=50, t_mix=t_mix, alpha=alpha)
    splits = [schedule(step, group_size) for step in range(1, 51)]
    assert [split.step for split in splits] == [*range(1, 51)]
    for split in splits:
        assert split.explorer + split.learner == group_size
        assert split.explorer >= 0
        assert split.learner >= 0
        assert 0 <= split.alpha <= 1
        assert split.explorer >= split.alpha * group_size - 1e-9
        assert split.explorer < split.alpha * group_size + 1 + 1e-9
    counts = [split.explorer for split in splits]
    assert counts == sorted(counts, reverse=True)
    if name not in ("constant", "list", "adaptive"):
        assert all(count == 0 for count in counts[t_mix:])


@pytest.mark.parametrize(
    ("name", "t_mix", "alpha", "message"),
    [
        ("linaer", 8, 1.0, "schedule.name=linaer is unknown"),
        ("constant", 8, 1.5, "schedule.alpha=1.5 is not a share"),
        ("constant", 8, float("nan"), "schedule.alpha=nan is not a share"),
    ],
)
def test_bad_schedules(name: str, t_mix: int, alpha: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        made(name, steps=16, t_mix=t_mix, alpha=alpha)


@pytest.mark.parametrize("t_mix", [17, -1])
def test_t_mix_of_a_run_that_begins_lies_within_its_steps(t_mix: int) -> None:
    with pytest.raises(UserError, match=rf"schedule\.t_mix={t_mix} is outside 0\.\.16 .*null"):
        check_t_mix(ScheduleConfig(t_mix=t_mix), 16)
    for allowed in (0, 16, None):
        check_t_mix(ScheduleConfig(t_mix=allowed), 16)


def test_a_run_that_was_shortened_keeps_its_schedule() -> None:
    assert explorer_counts("linear", steps=4, t_mix=8) == explorer_counts("linear", steps=16, t_mix=8)[:4]


def test_steps_are_counted_from_one() -> None:
    with pytest.raises(ValueError, match="counted from 1"):
        made("linear", steps=16, t_mix=None, alpha=1.0)(0, 16)


def test_what_the_checks_read_of_a_schedule() -> None:
    kinds = {name: SCHEDULES[name] for name in SCHEDULES.names()}
    assert [name for name, kind in kinds.items() if not kind.explores] == ["none"]
    assert [name for name, kind in kinds.items() if not kind.uses_t_mix] == ["constant", "list", "adaptive", "none"]


def test_a_list_of_shares_ends_with_its_last_one() -> None:
    schedule = made("list", steps=5, shares=(1.0, 0.3, 0.1))
    assert [schedule(step, 10).explorer for step in range(1, 6)] == [10, 3, 1, 1, 1]


def outcome(zero_variance: float = 0.0, learner: float | None = None, explorer: float | None = None) -> Outcome:
    return Outcome(learner, explorer, zero_variance)


def test_adaptive_follows_the_share_of_groups_that_teach_nothing() -> None:
    schedule = made("adaptive", steps=9, alpha=0.5, target=0.25, gain=0.5, smoothing=0.5, low=0.1, high=0.8)
    outcomes = [outcome(0.75), outcome(0.25), outcome(0.0), outcome(1.0)]
    # averages 0.75, 0.5, 0.25, 0.625: the share moves by half of what is over 0.25
    alphas = [schedule(step, 10, outcomes[: step - 1]).alpha for step in range(1, 6)]
    assert alphas == pytest.approx([0.5, 0.75, 0.8, 0.8, 0.8])
    assert schedule(3, 10, outcomes).alpha == 0.8  # it hears nothing of step 3 and later
    falling = [schedule(step, 10, [outcome(0.0)] * (step - 1)).alpha for step in range(1, 8)]
    assert falling == pytest.approx([0.5, 0.375, 0.25, 0.125, 0.1, 0.1, 0.1])


def test_adaptive_sends_an_explorer_away_that_the_learner_has_outgrown() -> None:
    schedule = made("adaptive", steps=9, alpha=0.5, signal=Signal.reward_gap, target=0.0, gain=1.0, smoothing=0.0)
    ahead = outcome(learner=0.75, explorer=0.5)
    assert schedule(2, 8, [ahead]).alpha == 0.25
    assert schedule(2, 8, [outcome(learner=0.25, explorer=0.5)]).alpha == 0.75
    assert schedule(4, 8, [ahead, outcome(learner=0.9), ahead]).alpha == 0.0  # one that the learner sampled alone


signals = st.lists(st.floats(0, 1), max_size=30)


@given(signals=signals, gain=st.floats(0, 10), smoothing=st.floats(0, 0.99), target=st.floats(0, 1))
def test_adaptive_stays_within_its_bounds(signals: list[float], gain: float, smoothing: float, target: float) -> None:
    schedule = made("adaptive", steps=99, alpha=0.4, gain=gain, smoothing=smoothing, target=target, low=0.25, high=0.75)
    split = schedule(len(signals) + 1, 16, [outcome(signal) for signal in signals])
    assert 0.25 <= split.alpha <= 0.75
    assert split.explorer + split.learner == 16


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("list", {"shares": ()}, r"schedule.name=list without algorithm.schedule.shares"),
        ("list", {"shares": (0.5, 1.2)}, r"schedule.shares=1.2 is not a share"),
        (
            "adaptive",
            {"alpha": 0.9, "high": 0.5},
            r"schedule.alpha=0.9, where `adaptive` begins, is outside",
        ),
    ],
)
def test_bad_keys_of_schedules_that_have_more(name: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        made(name, steps=4, **keys)
