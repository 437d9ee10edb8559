"""Writes Megatron's `torch_dist` checkpoints (torch's DCP) without Megatron: the bytes of rows, streamed.

The files are what `torch.distributed.checkpoint` and megatron-core read (their sources are named in `torch_dist.py`).
Every size is known before any data is touched, and the same input gives the same bytes.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from s2l_nemo.models.formats.dtypes import BFLOAT16, FLOAT16, FLOAT32, Dtype
from s2l_nemo.models.formats.output import Output, write_rows
from s2l_nemo.models.formats.rows import Rows, size
from s2l_nemo.models.formats.torch_pickle import Call, Global, Instance, Persistent, pickled, saved

_FILE_BYTES = 8 * 10**9  # a file is closed before it grows beyond; one larger chunk stands alone
_ZIP64_FROM = 2**32 - 2**16  # bytes of a chunk from which its zip needs 64-bit sizes and offsets
_ALIGNMENT = 64  # of a chunk's data in its file, so that a reader may map it
_STORAGE_INFO = Global("torch.distributed.checkpoint.filesystem _StorageInfo")
_STORAGE_CLASSES = {
    FLOAT32: Global("torch FloatStorage"),
    BFLOAT16: Global("torch BFloat16Storage"),
    FLOAT16: Global("torch HalfStorage"),
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
        dtype: Dtype,
        objects: Sequence[str],
        prefix: str = "",
        common: Mapping[str, object] = {},
    ) -> None:
        self._prefix = prefix
        self._items = _lay_out(chunks, dtype, objects)
        self._small = {
            "common.pt": saved(dict(common)),
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
                        rows = data(item.chunk)
                        assert size(rows) == item.data_bytes, f"{item.chunk}: {size(rows)} bytes, not {item.data_bytes}"
                        write_rows(write, rows)
                        del rows  # before the next is made
                    write(item.tail)
        for name, content in self._small.items():
            with output.file(self._prefix + name) as write:
                write(content)


def _lay_out(chunks: Sequence[ChunkPlan], dtype: Dtype, objects: Sequence[str]) -> list[_Item]:
    items: list[_Item] = []
    extra_state = saved([None])
    number, offset = 0, 0
    for key, chunk in [*((key, None) for key in objects), *((chunk.key, chunk) for chunk in chunks)]:
        data_bytes = 0 if chunk is None else math.prod(chunk.sizes) * dtype.itemsize
        if offset and offset + data_bytes > _FILE_BYTES:
            number, offset = number + 1, 0
        head, tail = (extra_state, b"") if chunk is None else _zip_around(chunk.sizes, dtype, offset)
        items.append(_Item(key, chunk, f"__0_{number}.distcp", offset, data_bytes, head, tail))
        offset += items[-1].size()
    return items


def _metadata(items: Sequence[_Item], dtype: Dtype) -> bytes:
    """`.metadata` as torch pickles it. It has no place, time or random id of the save, unlike torch's."""
    tensors: dict[str, Any] = {}
    storage: dict[Instance, Instance] = {}
    for item in items:
        chunk = item.chunk
        if chunk is None:
            tensors[item.key] = Instance(_class("BytesStorageMetadata"), {})
        else:
            sizes = {"offsets": _size(chunk.offsets), "sizes": _size(chunk.sizes)}
            state = {"properties": _properties(dtype), "size": _size(chunk.global_shape), "chunks": []}
            entry = tensors.setdefault(item.key, Instance(_class("TensorStorageMetadata"), state))
            entry.state["chunks"].append(Instance(_class("ChunkStorageMetadata"), sizes))
        index = {"fqn": item.key, "offset": None if chunk is None else _size(chunk.offsets), "index": None}
        info = {"relative_path": item.file, "offset": item.offset, "length": item.size()}
        storage[Instance(_class("MetadataIndex"), index)] = Instance(_STORAGE_INFO, info)
    state = {
        "state_dict_metadata": tensors,
        "planner_data": {},
        "storage_data": storage,
        "storage_meta": None,
        "version": None,
        # Megatron looks up every tensor here; a tensor whose shape it changed would say so.
        "mcore_data": {item.key: {} for item in items if item.chunk is not None},
    }
    return pickled(Instance(_class("Metadata"), state))


def _class(name: str) -> Global:
    return Global(f"torch.distributed.checkpoint.metadata {name}")


def _size(sizes: tuple[int, ...]) -> Call:
    return Call(Global("torch Size"), (sizes,))


def _properties(dtype: Dtype) -> Instance:
    """dtype, layout, requires_grad, memory format (0: contiguous), pin_memory."""
    layout = Call(Global("torch.serialization _get_layout"), ("torch.strided",))
    memory_format = Call(_class("_MEM_FORMAT_ENCODING"), (0,))
    return Instance(_class("TensorProperties"), (Global(f"torch {dtype}"), layout, False, memory_format, False))


def _tensor(sizes: tuple[int, ...], dtype: Dtype) -> Call:
    """A contiguous tensor on the CPU, as torch pickles it, whose storage is the record `data/0`."""
    strides = tuple(math.prod(sizes[dim + 1 :]) for dim in range(len(sizes)))
    storage = Persistent(("storage", _STORAGE_CLASSES[dtype], "0", "cpu", math.prod(sizes)))
    hooks = Call(Global("collections OrderedDict"), ())
    return Call(Global("torch._utils _rebuild_tensor_v2"), (storage, 0, sizes, strides, False, hooks))


def _zip_around(sizes: tuple[int, ...], dtype: Dtype, offset: int) -> tuple[bytes, bytes]:
    """What comes before and after a chunk's data in a zip that starts at byte `offset` of its file.

    The zip is torch.save's: records `data.pkl`, `byteorder`, `version` and, last, `data/0`. The checksum of the data is
    left 0. It would cost a quarter of the writing thread, torch does not compare it when loading
    (`torch.serialization.set_crc32_options`), and the manifest's SHA-256 protects the same bytes.
    """
    head, directory = b"", b""
    for name, content in [("data.pkl", pickled(_tensor(sizes, dtype))), ("byteorder", b"little"), ("version", b"3\n")]:
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
