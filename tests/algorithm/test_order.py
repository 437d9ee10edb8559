from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.algorithm.order import batches, take
from s2l_nemo.errors import UserError

ORDER_OF_SEED_1 = [3, 0, 1, 2, 4]


@given(st.integers(1, 40), st.data(), st.integers(0, 100))
def test_an_epoch_visits_different_prompts_and_all_of_them_when_the_batch_divides_it(
    count: int, data: st.DataObject, seed: int
) -> None:
    size = data.draw(st.integers(1, count))
    in_epoch = count // size
    for epoch in range(3):
        start = epoch * in_epoch
        visited = [i for batch in range(start, start + in_epoch) for i in take(batch * size, size, count, seed)]
        assert len(set(visited)) == len(visited) == in_epoch * size
        assert set(visited) <= set(range(count))


@given(st.integers(1, 12), st.data(), st.integers(0, 30))
def test_the_batches_of_a_run_are_what_each_step_takes(count: int, data: st.DataObject, steps: int) -> None:
    size = data.draw(st.integers(1, count))
    assert list(batches(steps, size, count, 1)) == [take(step * size, size, count, 1) for step in range(steps)]


def test_a_run_whose_batch_is_too_large_is_refused() -> None:
    with pytest.raises(UserError, match="a batch of 3 prompts"):
        list(batches(1, 3, 2, 1))


def test_epochs_and_seeds_have_their_own_order() -> None:
    first = take(0, 100, 100, seed=1)
    assert sorted(first) == list(range(100)) != first
    assert take(100, 100, 100, seed=1) != first
    assert take(0, 100, 100, seed=2) != first
    assert take(0, 100, 100, seed=1) == first


@given(st.integers(2, 60), st.integers(0, 9), st.data())
def test_a_run_cut_off_anywhere_goes_on_with_the_same_prompts(count: int, seed: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, count))
    steps = data.draw(st.integers(1, 12))
    cut = data.draw(st.integers(0, steps))
    whole = [take(step * size, size, count, seed) for step in range(steps)]
    assert [take(step * size, size, count, seed) for step in reversed(range(cut, steps))][::-1] == whole[cut:]


def test_the_order_is_a_function_of_seed_and_epoch_alone() -> None:
    assert take(0, 5, 5, seed=1) == ORDER_OF_SEED_1  # a run begun with another version would visit prompts twice
    assert take(0, 2, 5, seed=1) + take(2, 2, 5, seed=1) == ORDER_OF_SEED_1[:4]


def test_different_prompts_are_left_over_in_different_epochs() -> None:
    left_over = [set(range(10)) - {i for b in range(3) for i in take((3 * e + b) * 3, 3, 10, 0)} for e in range(20)]
    assert all(len(prompts) == 1 for prompts in left_over)
    assert len(set.union(*left_over)) > 3


def test_a_batch_larger_than_the_data_set_is_refused() -> None:
    with pytest.raises(UserError, match=r"a batch of 5 prompts .* the data set has 4"):
        take(0, 5, 4, seed=0)


def test_a_position_inside_a_batch_is_refused() -> None:
    with pytest.raises(UserError, match="6 prompts have been consumed"):
        take(6, 4, 100, seed=0)
