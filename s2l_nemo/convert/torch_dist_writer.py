"""Writes Megatron's `torch_dist` checkpoints (torch's DCP) without Megatron: the bytes of rows, streamed.

The files are what `torch.distributed.checkpoint` and megatron-core read (their sources are named in `torch_dist.py`).
Every size is known before any data is touched, and the same input gives the same bytes.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import struct
import sys
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from s2l_nemo.convert.output import Output
from s2l_nemo.convert.rows import Rows, buffers

_FILE_BYTES = 8 * 10**9  # a file is closed before it grows beyond; one larger chunk stands alone
_ZIP64_FROM = 2**32 - 2**16  # bytes of a chunk from which its zip needs 64-bit sizes and offsets
_ALIGNMENT = 64  # of a chunk's data in its file, so that a reader may map it
_STORAGES = {
    torch.float32: torch.FloatStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.float16: torch.HalfStorage,
}
_BACKEND = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}


@dataclass(frozen=True)
class ChunkPlan:
    """A box of the tensor `key`."""

    key: str
    global_shape: tuple[int, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class _Item:
    """What is stored as one: a chunk between the two parts of its zip, or an object, which is all `head`."""

    key: str
    chunk: ChunkPlan | None
    file: str
    offset: int
    data_bytes: int
    head: bytes
    tail: bytes

    def size(self) -> int:
        return len(self.head) + self.data_bytes + len(self.tail)


class TorchDistPlan:
    """A checkpoint of chunks that cover each tensor exactly once, all of one dtype (float32, bfloat16 or float16).

    `objects` are keys that hold `[None]`, as Transformer Engine's `_extra_state` does without FP8. `common` becomes
    common.pt. `files` has the exact size of every file, named with `prefix`, in the order in which they are written:
    metadata.json comes last, since nothing loads a checkpoint without it.
    """

    def __init__(
        self,
        chunks: Sequence[ChunkPlan],
        dtype: torch.dtype,
        objects: Sequence[str],
        prefix: str = "",
        common: Mapping[str, object] = {},
    ) -> None:
        self._prefix = prefix
        self._items = _lay_out(chunks, dtype, objects)
        self._small = {
            "common.pt": _saved(dict(common)),
            ".metadata": _metadata(self._items, dtype),
            "metadata.json": json.dumps(_BACKEND).encode(),
        }
        self.files: dict[str, int] = {}
        for item in self._items:
            self.files[prefix + item.file] = item.offset + item.size()
        self.files.update((prefix + name, len(data)) for name, data in self._small.items())

    def write(self, output: Output, data: Callable[[ChunkPlan], Rows]) -> None:
        """Writes all files. `data` gives a chunk as rows of bytes which, one after the other, are the chunk."""
        by_file: dict[str, list[_Item]] = {}
        for item in self._items:
            by_file.setdefault(item.file, []).append(item)
        for name, items in by_file.items():
            with output.file(self._prefix + name) as write:
                for item in items:
                    write(item.head)
                    if item.chunk is not None:
                        written = 0
                        for buffer in buffers(data(item.chunk)):
                            write(buffer)
                            written += len(buffer)
                        assert written == item.data_bytes, f"{item.chunk}: {written} bytes, not {item.data_bytes}"
                    write(item.tail)
        for name, content in self._small.items():
            with output.file(self._prefix + name) as write:
                write(content)


def _lay_out(chunks: Sequence[ChunkPlan], dtype: torch.dtype, objects: Sequence[str]) -> list[_Item]:
    items: list[_Item] = []
    extra_state = _saved([None])
    number, offset = 0, 0
    for key, chunk in [*((key, None) for key in objects), *((chunk.key, chunk) for chunk in chunks)]:
        data_bytes = 0 if chunk is None else math.prod(chunk.sizes) * dtype.itemsize
        if offset and offset + data_bytes > _FILE_BYTES:
            number, offset = number + 1, 0
        head, tail = (extra_state, b"") if chunk is None else _zip_around(chunk.sizes, dtype, offset)
        # Interned, because a pickle says whether two equal strings are one object.
        items.append(_Item(sys.intern(key), chunk, sys.intern(f"__0_{number}.distcp"), offset, data_bytes, head, tail))
        offset += items[-1].size()
    return items


def _metadata(items: Sequence[_Item], dtype: torch.dtype) -> bytes:
    """`.metadata` with torch's own classes. It has no place, time or random id of the save, unlike torch's."""
    from torch.distributed.checkpoint.filesystem import _StorageInfo  # slow to import
    from torch.distributed.checkpoint.metadata import (
        BytesStorageMetadata,
        ChunkStorageMetadata,
        Metadata,
        MetadataIndex,
        TensorProperties,
        TensorStorageMetadata,
    )

    tensors: dict[str, Any] = {}
    storage: dict[MetadataIndex, _StorageInfo] = {}
    for item in items:
        chunk = item.chunk
        if chunk is None:
            tensors[item.key] = BytesStorageMetadata()
        else:
            shape = torch.Size(chunk.global_shape)
            entry = tensors.setdefault(item.key, TensorStorageMetadata(TensorProperties(dtype), shape, []))
            entry.chunks.append(ChunkStorageMetadata(torch.Size(chunk.offsets), torch.Size(chunk.sizes)))
        index = MetadataIndex(item.key, None if chunk is None else chunk.offsets)
        storage[index] = _StorageInfo(item.file, item.offset, item.size())
    metadata = Metadata(tensors, planner_data={}, storage_data=storage)
    # Megatron looks up every tensor here; a tensor whose shape it changed would say so.
    metadata.mcore_data = {item.key: {} for item in items if item.chunk is not None}  # type: ignore[attr-defined]
    return pickle.dumps(metadata, protocol=4)


def _saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@dataclass(frozen=True)
class _Storage:
    dtype: torch.dtype
    count: int


@dataclass(frozen=True)
class _Tensor:
    """Pickled as torch pickles a contiguous tensor on the CPU whose storage is the record `data/0`."""

    dtype: torch.dtype
    sizes: tuple[int, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        strides = tuple(math.prod(self.sizes[dim + 1 :]) for dim in range(len(self.sizes)))
        storage = _Storage(self.dtype, math.prod(self.sizes))
        return torch._utils._rebuild_tensor_v2, (storage, 0, self.sizes, strides, False, OrderedDict())


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return ("storage", _STORAGES[obj.dtype], "0", "cpu", obj.count) if isinstance(obj, _Storage) else None


def _zip_around(sizes: tuple[int, ...], dtype: torch.dtype, offset: int) -> tuple[bytes, bytes]:
    """What comes before and after a chunk's data in a zip that starts at byte `offset` of its file.

    The zip is torch.save's: records `data.pkl`, `byteorder`, `version` and, last, `data/0`. The checksum of the data is
    left 0. It would cost a quarter of the writing thread, torch does not compare it when loading
    (`torch.serialization.set_crc32_options`), and the manifest's SHA-256 protects the same bytes.
    """
    pickled = io.BytesIO()
    _Pickler(pickled, protocol=2).dump(_Tensor(dtype, sizes))
    head, directory = b"", b""
    for name, content in [("data.pkl", pickled.getvalue()), ("byteorder", b"little"), ("version", b"3\n")]:
        local, central = _record(name, zlib.crc32(content), len(content), len(head))
        head, directory = head + local + content, directory + central
    data_bytes = math.prod(sizes) * dtype.itemsize
    local, central = _record("data/0", 0, data_bytes, len(head), offset + len(head))
    head, directory = head + local, directory + central
    return head, directory + _end_of_zip(4, len(directory), len(head) + data_bytes, data_bytes >= _ZIP64_FROM)


def _record(name: str, checksum: int, size: int, start: int, position: int | None = None) -> tuple[bytes, bytes]:
    """Local and central header of an uncompressed record whose local header is at byte `start` of its zip.

    With `position`, where that is in the file, padding aligns the data; it is in a field that torch pads with too.
    """
    encoded = f"archive/{name}".encode()
    zip64 = struct.pack("<2H2Q", 1, 16, size, size) if size >= _ZIP64_FROM else b""
    extra = zip64
    if position is not None:
        padding = -(position + 30 + len(encoded) + len(zip64) + 4) % _ALIGNMENT
        extra += struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    short = 2**32 - 1 if zip64 else size
    # version needed, flags, method (stored), time, date (1 January 1980), checksum, sizes
    common = struct.pack("<5H3I", 45 if zip64 else 20, 0, 0, 0, 33, checksum, short, short)
    local = b"PK\x03\x04" + common + struct.pack("<2H", len(encoded), len(extra)) + encoded + extra
    central = b"PK\x01\x02" + struct.pack("<H", 45) + common + struct.pack("<2H", len(encoded), len(zip64))
    return local, central + struct.pack("<3H2I", 0, 0, 0, 0, start) + encoded + zip64


def _end_of_zip(records: int, directory_bytes: int, directory_start: int, zip64: bool) -> bytes:
    end = b""
    if zip64:
        counts = struct.pack("<4Q", records, records, directory_bytes, directory_start)
        end += b"PK\x06\x06" + struct.pack("<Q2H2I", 44, 45, 45, 0, 0) + counts
        end += b"PK\x06\x07" + struct.pack("<IQI", 0, directory_start + directory_bytes, 1)
    start = 2**32 - 1 if zip64 else directory_start
    return end + b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, records, records, directory_bytes, start, 0)
