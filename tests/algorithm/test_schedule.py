from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.algorithm.schedule import SCHEDULES, make_schedule
from s2l_nemo.errors import UserError

names = st.sampled_from(SCHEDULES.names())


def explorer_counts(
    name: str, *, steps: int, t_mix: int | None = None, alpha: float = 1.0, group_size: int = 16
) -> list[int]:
    schedule = make_schedule(name, steps=steps, t_mix=t_mix, alpha=alpha)
    return [schedule(step, group_size).explorer for step in range(1, steps + 1)]


def test_linear_gives_the_numbers_of_the_paper() -> None:
    counts = explorer_counts("linear", steps=16)
    assert counts == [16, 14, 12, 10, 7, 5, 3, 0] + [0] * 8
    assert Fraction(sum(counts), 16 * 16) == Fraction(67, 256)


def test_linear_ceiling_is_exact_where_floats_are_not() -> None:
    split = make_schedule("linear", steps=16, t_mix=8, alpha=1.0)(7, 7)
    assert (split.explorer, split.learner) == (1, 6)
    assert split.alpha == 1 / 7


@given(t_mix=st.integers(2, 60), group_size=st.integers(1, 64), data=st.data())
def test_linear_equals_integer_formula(t_mix: int, group_size: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(1, t_mix))
    split = make_schedule("linear", steps=t_mix, t_mix=t_mix, alpha=1.0)(step, group_size)
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
    schedule = make_schedule(name, steps=50, t_mix=t_mix, alpha=alpha)
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
    if name != "constant":
        assert all(count == 0 for count in counts[t_mix:])


@pytest.mark.parametrize(
    ("name", "t_mix", "alpha", "message"),
    [
        ("linaer", 8, 1.0, "schedule.name=linaer is unknown"),
        ("linear", 17, 1.0, r"schedule.t_mix=17 is outside 0\.\.16"),
        ("linear", -1, 1.0, r"schedule.t_mix=-1 is outside"),
        ("constant", 8, 1.5, "schedule.alpha=1.5 is not a share"),
        ("constant", 8, float("nan"), "schedule.alpha=nan is not a share"),
    ],
)
def test_bad_schedules(name: str, t_mix: int, alpha: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_schedule(name, steps=16, t_mix=t_mix, alpha=alpha)


def test_steps_are_counted_from_one() -> None:
    with pytest.raises(ValueError, match="counted from 1"):
        make_schedule("linear", steps=16, t_mix=None, alpha=1.0)(0, 16)


def test_what_the_checks_read_of_a_schedule() -> None:
    kinds = {name: SCHEDULES[name] for name in SCHEDULES.names()}
    assert [name for name, kind in kinds.items() if not kind.explores] == ["none"]
    assert [name for name, kind in kinds.items() if not kind.uses_t_mix] == ["constant", "none"]
