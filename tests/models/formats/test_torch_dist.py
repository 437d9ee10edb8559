"""Megatron's distributed checkpoints: read from and written for torch, and hostile or damaged ones refused."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import math
import os
import pickle
import shutil
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from s2l_nemo.errors import UserError
from s2l_nemo.models.checkpoints.tensors import dtype_of, rows_of, tensor_of
from s2l_nemo.models.formats import torch_dist_writer
from s2l_nemo.models.formats.dtypes import FLOAT32
from s2l_nemo.models.formats.output import new_output
from s2l_nemo.models.formats.regions import folder_regions, tar_regions
from s2l_nemo.models.formats.rows import FileRows, MemoryRows, Rows
from s2l_nemo.models.formats.torch_dist import TorchDistReader
from s2l_nemo.models.formats.torch_dist_writer import ChunkPlan, TorchDistPlan
from tests.models.outputs import PlainOutput

BACKEND = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
Box = tuple[tuple[int, ...], tuple[int, ...]]  # offsets, sizes


def crop(tensor: torch.Tensor, offsets: tuple[int, ...], sizes: tuple[int, ...]) -> torch.Tensor:
    return tensor[tuple(slice(start, start + size) for start, size in zip(offsets, sizes, strict=True))].contiguous()


def reader(folder: Path) -> TorchDistReader:
    return TorchDistReader(folder_regions(folder), folder)


def read(source: TorchDistReader, key: str, layer: int | None = None) -> torch.Tensor:
    info = source.tensors[key]
    return tensor_of(source.rows(key, layer), info.dtype, info.shape if layer is None else info.shape[1:])


def write_by_torch(folder: Path, tensors: dict[str, tuple[torch.Tensor, list[Box]]]) -> Metadata:
    """A checkpoint of any boxes, made by torch.save and torch's own classes; the boxes alternate between two files."""
    folder.mkdir(exist_ok=True)
    metadata = Metadata({}, planner_data={}, storage_data={}, storage_meta=StorageMeta(folder, "id"))  # a pathlib path
    files = {name: (folder / name).open("wb") for name in ("__0_0.distcp", "__1_0.distcp")}
    names = itertools.cycle(files)
    for key, (tensor, boxes) in tensors.items():
        chunks = [ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)) for offsets, sizes in boxes]
        metadata.state_dict_metadata[key] = TensorStorageMetadata(TensorProperties(tensor.dtype), tensor.shape, chunks)
        for offsets, sizes in boxes:
            name = next(names)
            start = files[name].tell()
            torch.save(crop(tensor, offsets, sizes).clone(), files[name])  # else the whole storage is saved
            info = _StorageInfo(name, start, files[name].tell() - start)
            metadata.storage_data[MetadataIndex(key, offsets)] = info
    for file in files.values():
        file.close()
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    (folder / "metadata.json").write_text(json.dumps(BACKEND))
    return metadata


def grid(key: str, tensor: torch.Tensor, cuts: list[list[int]]) -> list[ChunkPlan]:
    """Chunks of a tensor that is cut at these places of each dimension."""
    edges = [sorted({0, size, *places}) for size, places in zip(tensor.shape, cuts, strict=True)]
    plans = []
    for box in itertools.product(*(itertools.pairwise(places) for places in edges)):
        offsets, sizes = tuple(low for low, _ in box), tuple(high - low for low, high in box)
        plans.append(ChunkPlan(key, tuple(tensor.shape), offsets, sizes))
    return plans


def source_of(tensors: dict[str, torch.Tensor]) -> Callable[[ChunkPlan], Rows]:
    """The rows of a chunk in two parts."""

    def data(chunk: ChunkPlan) -> Rows:
        (rows,) = rows_of(crop(tensors[chunk.key], chunk.offsets, chunk.sizes))
        middle = len(rows) // 2
        return rows[:middle], rows[middle:]

    return data


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


def replace_item(folder: Path, value: Any) -> None:
    """Puts another object into the place of the first item, which is made as long as the object needs."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    replace_item_bytes(folder, buffer.getvalue())


def replace_item_bytes(folder: Path, content: bytes) -> None:
    (folder / "__0_0.distcp").write_bytes(content)

    def edit(metadata: Metadata) -> None:
        next(iter(metadata.storage_data.values())).length = len(content)

    edit_metadata(folder, edit)


def edit_metadata(folder: Path, edit: Callable[[Metadata], None]) -> None:
    metadata = pickle.loads((folder / ".metadata").read_bytes())  # noqa: S301  written by this test
    edit(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


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


# Hostile and damaged


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    write_by_torch(folder, {"key": (torch.arange(24.0).view(4, 6), [((0, 0), (2, 6)), ((2, 0), (2, 6))])})
    assert reader(folder).tensors["key"].shape == (4, 6)
    return folder


class Shell:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def test_metadata_that_would_run_code_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    edit_metadata(checkpoint, lambda metadata: setattr(metadata, "planner_data", {"key": Shell(marker)}))
    with pytest.raises(UserError, match=r"\.metadata calls posix\.system, refused: this pickle would run code"):
        reader(checkpoint)
    assert not marker.exists()


def test_an_item_that_would_run_code_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    replace_item(checkpoint, [Shell(marker), "x" * 100])
    with pytest.raises(UserError, match=r"posix\.system, refused"):
        reader(checkpoint).rows("key")
    assert not marker.exists()


@pytest.mark.parametrize(
    "code",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cbuiltins\ngetattr\n(ctorch\nfloat32\nS'__class__'\ntR.",  # getattr is a stand-in that gets nothing
        b"ctorch.distributed.checkpoint.metadata\nMetadata\n(N}S'__setstate__'\nI1\nstb.",  # would change a class
        b"ctorch.distributed.checkpoint.metadata\nMetadata.__new__\n.",
        b"ctorch\nSize\n(I1\ntR.",
        b"I1\n.",
        b"",
    ],
)
def test_any_other_pickle_is_refused(checkpoint: Path, code: bytes) -> None:
    (checkpoint / ".metadata").write_bytes(code)
    with pytest.raises(UserError):
        reader(checkpoint)


def storage(metadata: Metadata) -> Any:
    return next(iter(metadata.storage_data.values()))


def stored_tensor(metadata: Metadata) -> Any:
    return metadata.state_dict_metadata["key"]


def change(path: str, value: Any) -> Callable[[Metadata], None]:
    return lambda metadata: setattr(storage(metadata), path, value)


WRONG_METADATA: dict[str, tuple[Callable[[Metadata], None], str]] = {
    "outside": (change("relative_path", "../__0_0.distcp"), "'../__0_0.distcp', which is no plain file name"),
    "absolute": (change("relative_path", "/etc/passwd"), "'/etc/passwd', which is no plain file name"),
    "unknown file": (change("relative_path", "__9_0.distcp"), "__9_0.distcp is missing"),
    "negative": (change("offset", -1), r"\[-1, \d+\] are no sizes"),
    "beyond": (change("length", 10**9), "__0_0.distcp is cut short"),
    "too small": (change("length", 20), "does not fit in its 20 bytes"),
    "compressed": (change("transform_descriptors", ["zstd"]), "is compressed"),
    "no dtype": (lambda m: setattr(stored_tensor(m), "properties", None), "'key' has no dtype"),
    "no chunks": (lambda m: stored_tensor(m).chunks.clear(), "hold 0 of its 24 elements"),
    "missing chunk": (lambda m: stored_tensor(m).chunks.pop(), "hold 12 of its 24 elements"),
    "not stored": (lambda m: m.storage_data.clear(), r"chunk \(0, 0\) of tensor key is stored nowhere"),
    "twice": (lambda m: stored_tensor(m).chunks.append(stored_tensor(m).chunks[0]), r"tensor key overlap at \(0, 0\)"),
    "overlap": (lambda m: setattr(stored_tensor(m).chunks[0], "sizes", torch.Size((3, 6))), r"overlap at \(2, 0\)"),
    "out of it": (lambda m: setattr(stored_tensor(m), "size", torch.Size((3, 6))), "lies outside tensor key"),
    "dimensions": (lambda m: setattr(stored_tensor(m), "size", torch.Size((24,))), "lies outside tensor key"),
    "other": (lambda m: vars(m)["state_dict_metadata"].update(key=SimpleNamespace), "types.SimpleNamespace, refused"),
    "none": (lambda m: setattr(m, "storage_data", None), "None is no dictionary"),
}


@pytest.mark.parametrize("name", WRONG_METADATA)
def test_wrong_metadata_is_refused_before_data_is_read(checkpoint: Path, name: str) -> None:
    edit, message = WRONG_METADATA[name]
    edit_metadata(checkpoint, edit)
    with pytest.raises(UserError, match=message) as error:
        reader(checkpoint)
    assert str(checkpoint) in str(error.value)


@pytest.mark.parametrize("name", ["metadata.json", ".metadata", "__1_0.distcp"])
def test_a_missing_file_is_named(checkpoint: Path, name: str) -> None:
    (checkpoint / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        reader(checkpoint)


def test_cut_files_are_named(checkpoint: Path) -> None:
    for name, message in (("__1_0.distcp", "__1_0.distcp is cut short: it has"), (".metadata", ".metadata is corrupt")):
        copy = shutil.copytree(checkpoint, checkpoint.with_name(f"cut{name}"))
        os.truncate(copy / name, (copy / name).stat().st_size - 1)
        with pytest.raises(UserError, match=message):
            reader(copy)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        (
            '{"sharded_backend": "zarr", "sharded_backend_version": 1}',
            "format 'zarr' version 1, which is not supported",
        ),
        ('{"sharded_backend": "torch_dist", "sharded_backend_version": 2}', "version 2, which is not supported"),
        ("{}", "metadata.json does not name a format"),
        ("not json", "metadata.json does not name a format"),
    ],
)
def test_other_formats_are_refused(checkpoint: Path, stated: str, message: str) -> None:
    (checkpoint / "metadata.json").write_text(stated)
    with pytest.raises(UserError, match=message):
        reader(checkpoint)


WRONG_ITEMS: dict[str, Any] = {
    "dtype": torch.zeros(2, 6, dtype=torch.int32),
    "shape": torch.zeros(3, 4),
    "transposed": torch.zeros(6, 2).t(),
    "offset": torch.zeros(13)[1:].view(2, 6),
    "expanded": torch.zeros(1, 6).expand(2, 6),
    "part of a storage": torch.zeros(3, 6)[:2],
    "list": [None] * 100,
}


@pytest.mark.parametrize("name", WRONG_ITEMS)
def test_an_item_that_is_not_what_metadata_says_is_refused(checkpoint: Path, name: str) -> None:
    replace_item(checkpoint, WRONG_ITEMS[name])
    with pytest.raises(UserError, match=r"\(key\) is no contiguous little-endian float32 tensor of shape \(2, 6\)"):
        reader(checkpoint).rows("key")


def test_a_damaged_item_is_refused(checkpoint: Path) -> None:
    content = (checkpoint / "__0_0.distcp").read_bytes()
    for damaged in (bytes(len(content)), content.replace(b"PK\x03\x04", b"PK\x00\x00"), content + b"PK\x05\x06" * 9):
        copy = Path(shutil.copytree(checkpoint, Path(tempfile.mkdtemp(dir=checkpoint.parent)) / "copy"))
        replace_item_bytes(copy, damaged)
        with pytest.raises(UserError, match=r"__0_0\.distcp at byte 0"):
            reader(copy).rows("key")


def test_a_compressed_item_is_refused(checkpoint: Path) -> None:
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO((checkpoint / "__0_0.distcp").read_bytes())) as archive,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in archive.namelist():
            packed.writestr(entry, archive.read(entry))
    replace_item_bytes(checkpoint, buffer.getvalue())
    with pytest.raises(UserError, match="is not stored as it should be"):
        reader(checkpoint).rows("key")
