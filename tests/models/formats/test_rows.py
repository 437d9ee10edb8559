"""Rows against the bytes and tensors that they stand for."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.errors import UserError
from s2l_nemo.models.checkpoints.tensors import dtype_of, rows_of, tensor_of
from s2l_nemo.models.formats.dtypes import BFLOAT16, FLOAT16, FLOAT32, Dtype
from s2l_nemo.models.formats.regions import Region
from s2l_nemo.models.formats.rows import FileRows, MemoryRows, Part, Rows, blocks, cast, count, same_bytes, size, take


def content(rows: Rows) -> bytes:
    return b"".join(block.tobytes() for block in blocks(rows, 7))


@st.composite
def any_rows(draw: st.DrawFn) -> tuple[bytes, int, list[int], bool]:
    """Different bytes, the bytes of a row, where the rows are cut, and whether they are in a file."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    row_bytes = draw(st.integers(1, 6))
    return bytes(range(sum(sizes) * row_bytes)), row_bytes, sizes, draw(st.booleans())


def build(data: bytes, row_bytes: int, sizes: list[int], file: Path | None) -> Rows:
    """The same rows in parts, in memory or in a file where they begin at an odd byte."""
    whole: Part = MemoryRows(memoryview(data), row_bytes)
    if file is not None:
        file.write_bytes(b"odd" + data + b"more")
        whole = FileRows(Region(file, 3, len(data)), row_bytes)
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    return tuple(whole[start : start + length] for start, length in zip(starts, sizes, strict=True))


@given(any_rows(), st.data())
def test_take_is_a_slice(drawn: tuple[bytes, int, list[int], bool], data: st.DataObject) -> None:
    whole, row_bytes, sizes, in_file = drawn
    start = data.draw(st.integers(0, sum(sizes)))
    stop = data.draw(st.integers(start, sum(sizes)))
    with tempfile.TemporaryDirectory() as folder:
        rows = build(whole, row_bytes, sizes, Path(folder) / "file" if in_file else None)
        taken = take(rows, start, stop)
        assert count(taken) == stop - start
        assert size(taken) == (stop - start) * row_bytes
        assert content(taken) == whole[start * row_bytes : stop * row_bytes]


@given(any_rows(), st.integers(1, 60))
def test_blocks_are_all_bytes_in_order(drawn: tuple[bytes, int, list[int], bool], block: int) -> None:
    whole, row_bytes, sizes, _ = drawn
    found = [part.tobytes() for part in blocks(build(whole, row_bytes, sizes, None), block)]
    assert b"".join(found) == whole
    assert all(len(part) == block for part in found[:-1])


def test_same_bytes() -> None:
    one = rows_of(torch.arange(40.0).view(10, 4))
    other = rows_of(torch.arange(40.0).view(10, 4))
    assert same_bytes((one[0][:3], one[0][3:]), other)
    assert not same_bytes(one, rows_of(-torch.arange(40.0).view(10, 4)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_tensor_and_back(dtype: torch.dtype) -> None:
    tensor = torch.randn(5, 3).to(dtype)
    (whole,) = rows_of(tensor)
    assert (len(whole), whole.row_bytes) == (5, 3 * dtype.itemsize)
    assert torch.equal(tensor_of((whole[:2], whole[2:]), dtype_of(dtype), (5, 3)), tensor)
    assert torch.equal(tensor_of(rows_of(tensor.t()), dtype_of(dtype), (3, 5)), tensor.t())
    assert len(rows_of(torch.tensor(1.0))[0]) == 1


@given(st.integers(0, 30), st.integers(0, 30), st.sampled_from([(FLOAT32, BFLOAT16), (FLOAT16, FLOAT32)]))
def test_cast_is_torchs_wherever_a_read_begins(start: int, length: int, types: tuple[Dtype, Dtype]) -> None:
    stored, wanted = types
    tensor = torch.randn(5, 3).to(getattr(torch, stored.name))
    (cut,) = cast(rows_of(tensor), stored, wanted)
    expected = content(rows_of(tensor.to(getattr(torch, wanted.name))))
    assert size((cut,)) == len(expected)
    buffer = bytearray(min(length, len(expected) - start) if start < len(expected) else 0)
    cut.read_into(start, memoryview(buffer))
    assert buffer == expected[start : start + len(buffer)]
    assert content((cut[1:3],)) == expected[3 * wanted.itemsize : 9 * wanted.itemsize]


def test_the_same_type_is_no_cast() -> None:
    rows = rows_of(torch.randn(2, 2))
    assert cast(rows, FLOAT32, FLOAT32) is rows


def test_a_file_that_becomes_shorter_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 100)
    rows = FileRows(Region(file, 0, 100), 10)
    file.write_bytes(b"x" * 50)
    with pytest.raises(UserError, match=r"file was cut short while it was read"):
        content((rows,))


def test_a_file_in_its_place_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    region = Region(file, 0, 3)
    assert region.read() == b"old"
    other = tmp_path / "other"
    other.write_bytes(b"new")
    other.rename(file)
    assert region.read() == b"new"
