"""DAPO's penalty by hand: a limit of 10 tokens, of which the last 4 are the buffer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.algorithm.overlong import overlong_penalty


@pytest.mark.parametrize(
    ("length", "share"), [(0, 0.0), (1, 0.0), (6, 0.0), (7, 0.25), (8, 0.5), (9, 0.75), (10, 1.0), (11, 1.0)]
)
@pytest.mark.parametrize("penalty", [1.0, 0.5])
def test_by_hand(length: int, share: float, penalty: float) -> None:
    found_PG = overlong_penalty(torch.tensor([[length]]), max_response_length=10, buffer=4, penalty=penalty)
    assert found_PG.dtype == torch.float64
    assert found_PG.tolist() == [[-share * penalty]]


def test_the_buffer_may_be_all_of_the_limit() -> None:
    found_PG = overlong_penalty(torch.tensor([[1, 4]]), max_response_length=4, buffer=4, penalty=1.0)
    assert found_PG.tolist() == [[-0.25, -1.0]]


def test_without_a_buffer_there_is_none() -> None:
    found_PG = overlong_penalty(torch.tensor([[3, 10]]), max_response_length=10, buffer=None, penalty=5.0)
    assert found_PG.tolist() == [[0.0, 0.0]]
    assert found_PG.dtype == torch.float64


@pytest.mark.parametrize("buffer", [0, 11])
def test_a_buffer_outside_of_the_limit_is_refused(buffer: int) -> None:
    with pytest.raises(ValueError, match=f"a buffer of {buffer} tokens is not from 1 to the limit of 10"):
        overlong_penalty(torch.tensor([[3]]), max_response_length=10, buffer=buffer, penalty=1.0)


@given(lengths=st.lists(st.integers(0, 50), min_size=2, max_size=8), buffer=st.integers(1, 40), penalty=st.floats(0, 9))
def test_longer_is_never_better(lengths: list[int], buffer: int, penalty: float) -> None:
    found = overlong_penalty(torch.tensor([sorted(lengths)]), max_response_length=40, buffer=buffer, penalty=penalty)[
        0
    ].tolist()
    assert found == sorted(found, reverse=True)
    assert all(-penalty <= value <= 0 for value in found)
