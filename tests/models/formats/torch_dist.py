"""Helpers: Megatron's distributed checkpoints as torch writes them, and changed ones."""

from __future__ import annotations

import io
import itertools
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from s2l_nemo.models.checkpoints.tensors import rows_of, tensor_of
from s2l_nemo.models.formats.regions import folder_regions
from s2l_nemo.models.formats.rows import Rows
from s2l_nemo.models.formats.torch_dist import TorchDistReader
from s2l_nemo.models.formats.torch_dist_writer import ChunkPlan

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
