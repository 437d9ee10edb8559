"""Buckets through a memory segment: bit-equal, one segment for all of them, nothing left behind."""

from __future__ import annotations

import errno
import gc
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from s2l_nemo.engines.served.shared_memory import Segment, SegmentReader
from s2l_nemo.errors import UserError


def every_bit_pattern() -> torch.Tensor:
    """int16 0..65535, NaNs and infinities of the half-precision types included."""
    return torch.arange(2**16, dtype=torch.int32).to(torch.int16)


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def segments() -> list[str]:
    """Descriptors and mappings of segments that this process has."""
    gc.collect()
    links = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return [line for line in links + Path("/proc/self/maps").read_text().splitlines() if "s2l_nemo_refit" in line]


def open_segments() -> int:
    return len(segments())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_bit_comes_back(dtype: torch.dtype) -> None:
    bucket = {
        "odd": torch.arange(3, dtype=dtype),
        "all": every_bit_pattern().view(dtype).view(64, -1),
        "transposed": torch.arange(12, dtype=dtype).view(3, 4).t(),
        "empty": torch.empty(0, 5, dtype=dtype),
        "scalar": torch.tensor(2.5, dtype=dtype),
    }
    segment = Segment(0)
    read = SegmentReader().read(segment.write(bucket))
    assert read.keys() == bucket.keys()
    for name, tensor in bucket.items():
        assert read[name].shape == tensor.shape
        assert read[name].dtype == dtype
        assert raw(read[name]) == raw(tensor)
    segment.close()


def test_a_segment_is_used_again_and_grows() -> None:
    before = open_segments()
    segment, reader = Segment(0), SegmentReader()
    first = segment.write({"a": torch.ones(10)})
    view = reader.read(first)["a"]
    assert segment.write({"b": torch.full((10,), 2.0)}) | {"tensors": 0} == first | {"tensors": 0}
    assert view.tolist() == [2.0] * 10  # the same memory
    del view
    large = torch.arange(2**20, dtype=torch.float32)
    assert torch.equal(reader.read(segment.write({"c": large}))["c"], large)
    assert open_segments() == before + 5  # each side's mapping has a descriptor of its own
    segment.close()


def test_two_slots_hold_two_buckets() -> None:
    reader = SegmentReader()
    segments = Segment(0), Segment(1)
    reads = [reader.read(segment.write({"a": torch.tensor([float(i)])})) for i, segment in enumerate(segments)]
    assert [read["a"].item() for read in reads] == [0.0, 1.0]
    for segment in segments:
        segment.close()


def test_nothing_is_left() -> None:
    before = open_segments()
    segment, reader = Segment(0), SegmentReader()
    reader.read(segment.write({"a": torch.ones(10)}))
    assert open_segments() == before + 5
    assert all(line.endswith("/memfd:s2l_nemo_refit (deleted)") for line in segments())  # in no folder, so gone with us
    segment.close()
    del reader
    assert open_segments() == before


def test_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match="tensor steps has type int64"):
        Segment(0).write({"steps": torch.arange(3)})


@pytest.mark.parametrize("elements", [10, 2**45], ids=["refused by the system", "more than there is"])
def test_too_little_memory_is_one_line(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    before = open_segments()

    def refuse(_fd: int, _offset: int, size: int) -> None:
        assert size == 2**21  # a test that asked for more would take the whole machine down
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(UserError, match=r"no \d+ MiB of shared memory .*: lower rollout.refit_bucket_mb"):
        Segment(0).write({"a": torch.empty(1).expand(elements)})
    assert open_segments() == before


def test_a_file_that_is_no_memory_of_an_update_is_not_mapped(tmp_path: Path) -> None:
    segment = Segment(0)
    layout = segment.write({"a": torch.ones(10)})
    with (tmp_path / "precious").open("w+b") as file:
        file.truncate(2**21)
        with pytest.raises(ValueError, match="is no memory of a weight update"):
            SegmentReader().read(layout | {"fd": file.fileno()})
    segment.close()


@pytest.mark.parametrize(
    "change",
    [
        {"tensors": [{"name": "a", "dtype": "float32", "shape": [10**9], "offset": 0}]},
        {"tensors": [{"name": "a", "dtype": "float32", "shape": [2], "offset": 2**21 - 4}]},
        {"tensors": [{"name": "a", "dtype": "int64", "shape": [1], "offset": 0}]},
        {"tensors": [{"name": "a", "dtype": "float32", "shape": [1], "offset": -4}]},
        {"size": 2**30},
        {"pid": 2**30},
        {"pid": "1/../self"},
        {"fd": 10**6},
    ],
    ids=str,
)
def test_other_layouts_are_refused(change: dict[str, Any]) -> None:
    segment = Segment(0)
    with pytest.raises((ValueError, KeyError, OSError)):
        SegmentReader().read(segment.write({"a": torch.ones(10)}) | change)
    segment.close()
