"""Rows against the tensors that they stand for."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.convert.rows import Rows, aligned, buffers, cast, count, from_bytes, join, take, to_bytes


@st.composite
def any_rows(draw: st.DrawFn) -> tuple[torch.Tensor, Rows]:
    """A tensor [n, columns] of different numbers and the same cut anywhere."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    columns = draw(st.integers(1, 3))
    tensor = torch.arange(sum(sizes) * columns).view(-1, columns)
    return tensor, tuple(tensor.split(sizes))


@given(any_rows(), st.data())
def test_take_is_a_slice_without_a_copy(drawn: tuple[torch.Tensor, Rows], data: st.DataObject) -> None:
    tensor, rows = drawn
    start = data.draw(st.integers(0, len(tensor)))
    stop = data.draw(st.integers(start, len(tensor)))
    taken = take(rows, start, stop)
    assert count(taken) == stop - start
    if taken:
        assert torch.equal(join(taken), tensor[start:stop])
    assert all(part.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr() for part in taken)


@given(any_rows(), st.data(), st.integers(1, 200))
def test_aligned_gives_the_same_rows_of_both(drawn: tuple[torch.Tensor, Rows], data: st.DataObject, block: int) -> None:
    tensor, rows = drawn
    cuts = sorted(data.draw(st.sets(st.integers(1, len(tensor)), max_size=3)) | {len(tensor)})
    sizes = [stop - start for start, stop in zip([0, *cuts], cuts, strict=False)]
    pairs = list(aligned(rows, tuple((tensor + 1000).split(sizes)), block))
    assert torch.equal(torch.cat([left for left, _ in pairs]), tensor)
    assert all(torch.equal(left + 1000, right) for left, right in pairs)


def test_bytes_and_back() -> None:
    tensor = torch.randn(5, 3)
    rows = tuple(to_bytes(tensor).split([2, 3]))
    assert [part.shape for part in rows] == [(2, 12), (3, 12)]
    assert torch.equal(from_bytes(rows, torch.float32, (5, 3)), tensor)
    assert b"".join(buffers(rows)) == tensor.numpy().tobytes()


def test_bytes_that_are_not_aligned() -> None:
    """Items of a checkpoint begin at any byte of their file."""
    tensor = torch.randn(4, 2)
    shifted = torch.cat([torch.zeros(1, dtype=torch.uint8), to_bytes(tensor).flatten()])[1:].view(4, 8)
    assert torch.equal(from_bytes((shifted,), torch.float32, (4, 2)), tensor)


def test_cast() -> None:
    tensor = torch.randn(4, 2)
    rows = cast((to_bytes(tensor),), torch.float32, torch.bfloat16)
    assert torch.equal(from_bytes(rows, torch.bfloat16, (4, 2)), tensor.bfloat16())
    same = (to_bytes(tensor),)
    assert cast(same, torch.float32, torch.float32) is same
