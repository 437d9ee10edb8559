"""Megatron's distributed checkpoints, read from torch and written for it."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import pickle
import struct
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from s2l_nemo.models.checkpoints.tensors import dtype_of
from s2l_nemo.models.formats import torch_dist_writer
from s2l_nemo.models.formats.dtypes import FLOAT32
from s2l_nemo.models.formats.output import new_output
from s2l_nemo.models.formats.regions import tar_regions
from s2l_nemo.models.formats.rows import FileRows, MemoryRows, Rows
from s2l_nemo.models.formats.torch_dist import TorchDistReader
from s2l_nemo.models.formats.torch_dist_writer import ChunkPlan, TorchDistPlan
from tests.models.formats.torch_dist import (
    BACKEND,
    DTYPES,
    Box,
    crop,
    grid,
    read,
    reader,
    replace_item,
    source_of,
    write_by_torch,
)
from tests.models.outputs import PlainOutput

# Reading what torch writes


def test_reads_what_dcp_saves(tmp_path: Path) -> None:
    tensors = {
        "matrix": torch.randn(6, 4),
        "vector": torch.randn(5).to(torch.bfloat16),
        "stack": torch.randn(3, 4, 2).to(torch.float16),
        "scalar": torch.tensor(3.5),
        "step": torch.arange(3),
    }
    save_with_dcp({**tensors, "object": {"a": [1]}}, tmp_path)
    (tmp_path / "metadata.json").write_text(json.dumps(BACKEND))
    found = reader(tmp_path)
    assert {key: (info.dtype, info.shape) for key, info in found.tensors.items()} == {
        key: (dtype_of(tensor.dtype), tuple(tensor.shape)) for key, tensor in tensors.items()
    }
    for key, tensor in tensors.items():
        assert torch.equal(read(found, key), tensor)
    assert torch.equal(read(found, "stack", 1), tensors["stack"][1])
    assert shapes(found.rows("vector")) == [(5, 2)]  # one element per row
    assert shapes(found.rows("stack")) == [(3, 16)]
    assert shapes(found.rows("stack", 2)) == [(4, 4)]


def shapes(rows: Rows) -> list[tuple[int, int]]:
    return [(len(part), part.row_bytes) for part in rows]


def save_with_dcp(state: dict[str, Any], folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(state, checkpoint_id=folder, no_dist=True)


def load_with_dcp(folder: Path, like: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    state = {key: torch.full_like(tensor, math.nan) for key, tensor in like.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load(state, checkpoint_id=folder, no_dist=True)
    return state


def test_rows_stay_in_their_file_where_whole_and_put_together_where_cut(tmp_path: Path) -> None:
    tensor = torch.randn(2, 4, 6)
    rows_of_layers: list[Box] = [((layer, row, 0), (1, 2, 6)) for row in (2, 0) for layer in (0, 1)]
    columns: list[Box] = [((0, 0, column), (2, 4, 2)) for column in (4, 0, 2)]  # chunks that span two layers
    write_by_torch(tmp_path, {"rows": (tensor, rows_of_layers), "columns": (tensor, columns)})
    found = reader(tmp_path)
    for key in ("rows", "columns"):
        assert torch.equal(read(found, key), tensor)
        assert torch.equal(read(found, key, 1), tensor[1])
    assert shapes(found.rows("rows", 1)) == [(2, 24), (2, 24)]
    assert all(isinstance(part, FileRows) for part in found.rows("rows", 1))
    assert shapes(found.rows("columns", 1)) == [(4, 24)]


def test_strides_of_dimensions_of_one_mean_nothing(tmp_path: Path) -> None:
    tensor = torch.arange(12.0).view(1, 3, 4)
    write_by_torch(tmp_path, {"key": (tensor, [((0, 0, 0), (1, 3, 4))])})
    replace_item(tmp_path, tensor.as_strided((1, 3, 4), (5, 4, 1)))
    assert torch.equal(read(reader(tmp_path), "key"), tensor)


# Writing for torch


@st.composite
def cut_tensors(draw: st.DrawFn) -> tuple[torch.Tensor, list[list[int]]]:
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    cuts = [draw(st.lists(st.integers(1, size), max_size=2)) for size in shape]
    return torch.randn(shape).to(draw(st.sampled_from(DTYPES))), cuts


@settings(max_examples=60)
@given(cut_tensors())
def test_there_and_back(drawn: tuple[torch.Tensor, list[list[int]]]) -> None:
    tensor, cuts = drawn
    tensors = {"one": tensor, "two": tensor + 1}
    with tempfile.TemporaryDirectory() as folder:
        chunks = [chunk for key in tensors for chunk in grid(key, tensors[key], cuts)]
        plan = TorchDistPlan(chunks, dtype_of(tensor.dtype), ["state/shard_0_1"])
        plan.write(PlainOutput(Path(folder)), source_of(tensors))
        assert {path.name: path.stat().st_size for path in Path(folder).iterdir()} == plan.files
        found = reader(Path(folder))
        assert set(found.tensors) == set(tensors)
        for key, whole in tensors.items():
            assert torch.equal(read(found, key), whole)
            assert all(torch.equal(read(found, key, layer), whole[layer]) for layer in range(len(whole)))
        assert all(torch.equal(loaded, tensors[key]) for key, loaded in load_with_dcp(Path(folder), tensors).items())


@pytest.mark.parametrize("zip64", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_loads_every_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, zip64: bool
) -> None:
    if zip64:
        monkeypatch.setattr(torch_dist_writer, "_ZIP64_FROM", 0)
    tensors = {"model.w": torch.randn(2, 3, 5).to(dtype), "model.norm": torch.randn(7).to(dtype)}
    chunks = grid("model.w", tensors["model.w"], [[1], [2], []]) + grid("model.norm", tensors["model.norm"], [[]])
    TorchDistPlan(chunks, dtype_of(dtype), ["model.s/shard_0_1"]).write(PlainOutput(tmp_path), source_of(tensors))
    metadata = pickle.loads((tmp_path / ".metadata").read_bytes())  # noqa: S301  written by this test
    assert len(metadata.storage_data) == len(chunks) + 1
    assert metadata.mcore_data == {"model.w": {}, "model.norm": {}}
    assert metadata.state_dict_metadata == {  # with torch's own classes, made by their own constructors
        "model.s/shard_0_1": BytesStorageMetadata(),
        **{
            key: TensorStorageMetadata(
                TensorProperties(dtype),
                tensor.shape,
                [
                    ChunkStorageMetadata(torch.Size(chunk.offsets), torch.Size(chunk.sizes))
                    for chunk in chunks
                    if chunk.key == key
                ],
            )
            for key, tensor in tensors.items()
        },
    }
    file = (tmp_path / "__0_0.distcp").read_bytes()
    for index, info in metadata.storage_data.items():
        item = file[info.offset : info.offset + info.length]
        loaded = torch.load(io.BytesIO(item), weights_only=True)
        if index.offset is None:
            assert loaded == [None]
            continue
        sizes = next(chunk.sizes for chunk in chunks if (chunk.key, chunk.offsets) == (index.fqn, tuple(index.offset)))
        assert torch.equal(loaded, crop(tensors[index.fqn], tuple(index.offset), sizes))
        assert loaded.dtype == dtype
        with zipfile.ZipFile(io.BytesIO(item)) as archive:
            header = archive.getinfo("archive/data/0").header_offset
        name_length, extra_length = struct.unpack("<HH", item[header + 26 : header + 30])
        assert (info.offset + header + 30 + name_length + extra_length) % 64 == 0
    assert all(torch.equal(read(reader(tmp_path), key), tensor) for key, tensor in tensors.items())
    assert torch.load(tmp_path / "common.pt", weights_only=True) == {}


def test_files_end_between_chunks_and_metadata_json_is_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_dist_writer, "_FILE_BYTES", 3_000)
    tensors = {"key": torch.randn(4, 500)}
    plan = TorchDistPlan(grid("key", tensors["key"], [[1, 2, 3], []]), FLOAT32, [], "model_weights/", {"a": 1})
    names = ["__0_0.distcp", "__0_1.distcp", "__0_2.distcp", "__0_3.distcp", "common.pt", ".metadata", "metadata.json"]
    assert list(plan.files) == [f"model_weights/{name}" for name in names]
    with new_output(tmp_path / "out", plan.files, tar=False, force=False) as output:
        plan.write(output, source_of(tensors))
    assert torch.equal(read(reader(tmp_path / "out" / "model_weights"), "key"), tensors["key"])
    assert torch.load(tmp_path / "out" / "model_weights" / "common.pt", weights_only=True) == {"a": 1}
    with new_output(tmp_path / "out.nemo", plan.files, tar=True, force=False) as output:
        plan.write(output, source_of(tensors))
    members = tar_regions(tmp_path / "out.nemo").items()
    files = {name.removeprefix("model_weights/"): region for name, region in members}
    assert torch.equal(read(TorchDistReader(files, tmp_path / "out.nemo"), "key"), tensors["key"])


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    tensors = {"some.key": torch.randn(4, 6)}
    chunks = grid("some.key", tensors["some.key"], [[2], []])
    copies = [dataclasses.replace(chunk, key="".join(["some", ".key"])) for chunk in chunks]  # equal, not the same
    contents = []
    for name, planned in (("a", chunks), ("b", copies)):
        (tmp_path / name).mkdir()
        TorchDistPlan(planned, FLOAT32, ["x/shard_0_1"]).write(PlainOutput(tmp_path / name), source_of(tensors))
        contents.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]


def test_rows_that_are_not_the_chunk_fail(tmp_path: Path) -> None:
    plan = TorchDistPlan([ChunkPlan("key", (2, 2), (0, 0), (2, 2))], FLOAT32, [])
    with pytest.raises(AssertionError, match="8 bytes, not 16"):
        plan.write(PlainOutput(tmp_path), lambda chunk: (MemoryRows(memoryview(bytes(8)), 8),))
