from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.data.order import take
from s2l_nemo.errors import UserError


@given(st.integers(1, 40), st.data(), st.integers(0, 100))
def test_an_epoch_visits_different_prompts_and_all_of_them_when_the_batch_divides_it(
    count: int, data: st.DataObject, seed: int
) -> None:
    size = data.draw(st.integers(1, count))
    batches = count // size
    for epoch in range(3):
        start = epoch * batches
        visited = [i for batch in range(start, start + batches) for i in take(batch * size, size, count, seed)]
        assert len(set(visited)) == len(visited) == batches * size
        assert set(visited) <= set(range(count))


def test_epochs_and_seeds_have_their_own_order() -> None:
    first = take(0, 100, 100, seed=1)
    assert sorted(first) == list(range(100)) != first
    assert take(100, 100, 100, seed=1) != first
    assert take(0, 100, 100, seed=2) != first
    assert take(0, 100, 100, seed=1) == first


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
