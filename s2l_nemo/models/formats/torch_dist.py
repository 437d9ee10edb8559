"""Reads Megatron's `torch_dist` checkpoints (torch's DCP) as rows of bytes: no Megatron, and no pickle that runs code.

A checkpoint is a folder of `__R_T.distcp` files, a pickled `.metadata` that says which chunk of which tensor lies where
in them, and `metadata.json`. Every chunk is what `torch.save` writes: an uncompressed zip of a small pickle and the raw
bytes. Sources: `torch/distributed/checkpoint/{metadata,filesystem}.py`, megatron-core
`dist_checkpointing/strategies/torch.py`.
"""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from s2l_nemo.errors import UserError
from s2l_nemo.models.formats.dtypes import DTYPES, Dtype
from s2l_nemo.models.formats.regions import Region
from s2l_nemo.models.formats.rows import FileRows, MemoryRows, Rows
from s2l_nemo.models.formats.torch_unpickle import IN_ITEM, IN_METADATA, STAND_INS, StandIn, TypeName, unpickle

_MAX_METADATA = 2**31  # bytes of `.metadata`
_MAX_SMALL = 2**20  # bytes of metadata.json, and of the pickle of one tensor
_MAX_ACTIVE = 2048  # chunks of a tensor that share rows: the ranks of tensor parallelism


@dataclass(frozen=True)
class TensorInfo:
    dtype: Dtype
    shape: tuple[int, ...]  # global


@dataclass(frozen=True)
class _Chunk:
    """A box of a tensor and the bytes of the file that hold its item."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    item: Region
    label: str  # for messages


class TorchDistReader:
    """The tensors of one checkpoint. `files` are named relative to its folder; `where` is only shown in messages.

    Raises UserError where `.metadata` is not the metadata of a torch_dist checkpoint, would run code, names files that
    are missing or cut short, or has chunks that do not cover their tensor exactly once. No data is read for that.
    """

    def __init__(self, files: Mapping[str, Region], where: Path) -> None:
        _check_backend(files, where)
        name = f"{where}/.metadata"
        metadata = unpickle(_content(files, ".metadata", where, _MAX_METADATA), IN_METADATA, name)
        items = _items(_field(metadata, "Metadata", "storage_data", name), files, where)
        self.tensors: dict[str, TensorInfo] = {}
        self._chunks: dict[str, list[_Chunk]] = {}
        for key, stored in _dictionary(_field(metadata, "Metadata", "state_dict_metadata", name), name).items():
            if type(stored) is not STAND_INS["BytesStorageMetadata"]:
                self.tensors[key] = info = _info(stored, key, name)
                listed = _field(stored, "TensorStorageMetadata", "chunks", name)
                self._chunks[key] = _chunks(listed, key, info, items, name)

    def rows(self, key: str, layer: int | None = None) -> Rows:
        """A tensor as bytes [n, bytes per row], or slice `layer` of one that stacks layers, without that dimension.

        They stay in their file where no chunk cuts a row; otherwise they are put together in memory. A 1-D tensor has
        one element per row. Raises UserError where an item is corrupt, would run code or is not what `.metadata`
        says it is.
        """
        info = self.tensors[key]
        boxes: list[_Chunk] = []
        parts: list[Region] = []
        for chunk in self._chunks[key]:
            inside = layer is None or chunk.offsets[0] <= layer < chunk.offsets[0] + chunk.sizes[0]
            if inside and 0 not in chunk.sizes:
                data = _item_data(chunk, info.dtype)
                if layer is not None:
                    size = data.size // chunk.sizes[0]
                    data = data.part((layer - chunk.offsets[0]) * size, size)
                boxes.append(chunk)
                parts.append(data)
        skip = 0 if layer is None else 1
        places = [(chunk.offsets[skip:] or (0,), chunk.sizes[skip:] or (1,)) for chunk in boxes]
        return _assemble(info.shape[skip:] or (1,), info.dtype.itemsize, places, parts)


def _assemble(
    shape: tuple[int, ...],
    itemsize: int,
    places: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    parts: Sequence[Region],
) -> Rows:
    """Rows from boxes (offsets, sizes) and the places of their bytes, in order where every row is whole."""
    row_bytes = math.prod(shape[1:]) * itemsize
    if parts and all(sizes[1:] == shape[1:] for _, sizes in places):
        order = sorted(range(len(parts)), key=lambda index: places[index][0][0])
        return tuple(FileRows(parts[index], row_bytes) for index in order)
    grid = numpy.empty((*shape[:-1], shape[-1] * itemsize), numpy.uint8)
    for (offsets, sizes), part in zip(places, parts, strict=True):
        box = [slice(offset, offset + size) for offset, size in zip(offsets[:-1], sizes[:-1], strict=True)]
        columns = slice(offsets[-1] * itemsize, (offsets[-1] + sizes[-1]) * itemsize)
        content = numpy.frombuffer(part.read(), numpy.uint8)
        grid[(*box, columns)] = content.reshape(*sizes[:-1], sizes[-1] * itemsize)
    return (MemoryRows(grid.reshape(-1).data, row_bytes),)


# What .metadata says, and whether it can be true


def _check_backend(files: Mapping[str, Region], where: Path) -> None:
    content = _content(files, "metadata.json", where, _MAX_SMALL)
    try:
        stated = json.loads(content)
        backend, version = stated["sharded_backend"], stated["sharded_backend_version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{where}/metadata.json does not name a format: it is no Megatron checkpoint") from None
    if backend != "torch_dist" or version != 1:
        raise UserError(
            f"{where} is a checkpoint in format {_shown(backend)} version {_shown(version)}, which is not supported: "
            "load it with NeMo and save it with model.dist_ckpt_format=torch_dist"
        )


def _required(files: Mapping[str, Region], name: str, where: Path) -> Region:
    if name not in files:
        raise UserError(f"{where}/{name} is missing: the checkpoint is incomplete, copy or save it again")
    return files[name]


def _content(files: Mapping[str, Region], name: str, where: Path, limit: int) -> bytes:
    region = _required(files, name, where)
    if region.size > limit:
        raise UserError(f"{where}/{name} has {region.size:,} bytes, which none has: copy or save it again")
    return region.read()


def _items(storage_data: Any, files: Mapping[str, Region], where: Path) -> dict[tuple[str, Any], tuple[Region, str]]:
    """Region and file of every item, by its tensor and its chunk's offsets (None: an object)."""
    name = f"{where}/.metadata"
    items: dict[tuple[str, Any], tuple[Region, str]] = {}
    for index, stored in _dictionary(storage_data, name).items():
        path = _field(stored, "_StorageInfo", "relative_path", name)
        offset, length = _sizes([_field(stored, "_StorageInfo", field, name) for field in ("offset", "length")], name)
        if not isinstance(path, str) or path in ("", ".", "..") or "/" in path or "\\" in path:
            raise UserError(f"{name} names the file {_shown(path)}, which is no plain file name: refused")
        if _field(stored, "_StorageInfo", "transform_descriptors", name, None):
            raise UserError(f"{name}: {path} is compressed, which is not supported: save it without extensions")
        file = _required(files, path, where)
        if offset + length > file.size:
            raise UserError(
                f"{where}/{path} is cut short: it has {file.size} bytes and should have at least {offset + length}"
            )
        key = _field(index, "MetadataIndex", "fqn", name)
        place = _field(index, "MetadataIndex", "offset", name, None)
        offsets = None if place is None else _sizes(place, name)
        if not isinstance(key, str):
            raise UserError(f"{name} is corrupt: {_shown(key)} is no name of a tensor")
        items[key, offsets] = Region(file.path, file.offset + offset, length), f"{where}/{path} at byte {offset}"
    return items


def _info(stored: Any, key: Any, name: str) -> TensorInfo:
    properties = _field(stored, "TensorStorageMetadata", "properties", name)
    state = properties.state if type(properties) is STAND_INS["TensorProperties"] else None
    dtype = state[0] if isinstance(state, tuple) and state else None
    if not isinstance(key, str) or not isinstance(dtype, TypeName):
        raise UserError(f"{name} is corrupt: tensor {_shown(key)} has no dtype")
    return TensorInfo(DTYPES[dtype.arguments[0]], _sizes(_field(stored, "TensorStorageMetadata", "size", name), name))


def _chunks(
    listed: Any, key: str, info: TensorInfo, items: Mapping[tuple[str, Any], tuple[Region, str]], name: str
) -> list[_Chunk]:
    """The chunks of a tensor, which lie inside it, have an item each, and cover it exactly once."""
    if not isinstance(listed, list):
        raise UserError(f"{name} is corrupt: tensor {key} has no list of chunks")
    chunks: list[_Chunk] = []
    for stored in listed:
        offsets, sizes = (
            _sizes(_field(stored, "ChunkStorageMetadata", field, name), name) for field in ("offsets", "sizes")
        )
        ends = [offset + size for offset, size in zip(offsets, sizes, strict=False)]
        if not len(offsets) == len(sizes) == len(info.shape) or any(
            end > size for end, size in zip(ends, info.shape, strict=True)
        ):
            raise UserError(f"{name}: chunk {offsets} + {sizes} lies outside tensor {key} of shape {info.shape}")
        if (key, offsets) not in items:
            raise UserError(f"{name}: chunk {offsets} of tensor {key} is stored nowhere")
        item, label = items[key, offsets]
        if item.size < math.prod(sizes) * info.dtype.itemsize:
            raise UserError(f"{label}: chunk {offsets} + {sizes} of {key} does not fit in its {item.size} bytes")
        chunks.append(_Chunk(offsets, sizes, item, f"{label} ({key})"))
    _check_cover(chunks, key, info, name)
    return chunks


def _check_cover(chunks: list[_Chunk], key: str, info: TensorInfo, name: str) -> None:
    """Boxes inside a tensor cover it exactly once if none overlap and their volumes add up to its own."""
    active: list[_Chunk] = []
    for chunk in sorted((chunk for chunk in chunks if chunk.sizes), key=lambda chunk: chunk.offsets):
        if len(active) > _MAX_ACTIVE:
            raise UserError(f"{name}: more than {_MAX_ACTIVE} chunks of tensor {key} lie beside each other")
        active = [other for other in active if other.offsets[0] + other.sizes[0] > chunk.offsets[0]]
        if any(_overlap(chunk, other) for other in active):
            raise UserError(f"{name}: chunks of tensor {key} overlap at {chunk.offsets}")
        active.append(chunk)
    covered, whole = sum(math.prod(chunk.sizes) for chunk in chunks), math.prod(info.shape)
    if covered != whole:
        raise UserError(f"{name}: the chunks of tensor {key} hold {covered} of its {whole} elements")


def _overlap(one: _Chunk, other: _Chunk) -> bool:
    bounds = zip(one.offsets, one.sizes, other.offsets, other.sizes, strict=True)
    return all(max(a, b) < min(a + a_size, b + b_size) for a, a_size, b, b_size in bounds)


# Items: the zip that torch.save writes


def _item_data(chunk: _Chunk, dtype: Dtype) -> Region:
    """Where the raw bytes of a chunk are, after a check that they are a contiguous tensor of its shape and dtype."""
    try:
        with zipfile.ZipFile(_View(chunk.item)) as archive:
            records = {info.filename.partition("/")[2]: _record(chunk.item, info) for info in archive.infolist()}
        if records["data.pkl"].size > _MAX_SMALL:
            raise ValueError("its pickle is too long")
        pickled = records["data.pkl"].read()
    except (zipfile.BadZipFile, struct.error, KeyError, ValueError, OSError, NotImplementedError) as error:
        raise UserError(f"{chunk.label} is corrupt ({error}): copy or save the checkpoint again") from None
    little = "byteorder" not in records or records["byteorder"].read() == b"little"
    tensor = unpickle(pickled, IN_ITEM, chunk.label)
    match tensor:
        case StandIn(arguments=(("storage", stored, str(storage), _, _), 0, tuple(size), tuple(stride), *_)):
            raw = records.get(f"data/{storage}")
            stated = stored.arguments[0] if isinstance(stored, TypeName) else None
            same = (stated, size, little) == (dtype.name, chunk.sizes, True) and _is_contiguous(size, stride)
            if same and raw is not None and raw.size == math.prod(size) * dtype.itemsize:
                return raw
    raise UserError(f"{chunk.label} is no contiguous little-endian {dtype} tensor of shape {chunk.sizes}")


def _is_contiguous(size: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """As torch sees it: the stride of a dimension of size 1 means nothing."""
    wanted = [math.prod(size[dim + 1 :]) for dim in range(len(size))]
    return len(stride) == len(size) and all(
        count == 1 or have == want for count, have, want in zip(size, stride, wanted, strict=True)
    )


def _record(item: Region, info: zipfile.ZipInfo) -> Region:
    """The bytes of an uncompressed entry. Checksums are not compared: torch may be told to leave them out."""
    start = info.header_offset
    header = item.part(start, 30).read() if 0 <= start <= item.size - 30 else b""
    if (
        info.compress_type == zipfile.ZIP_STORED
        and info.compress_size == info.file_size
        and header[:4] == b"PK\x03\x04"
    ):
        name_length, extra_length = struct.unpack("<26x2H", header)
        start += 30 + name_length + extra_length
        if start + info.file_size <= item.size:
            return item.part(start, info.file_size)
    raise zipfile.BadZipFile(f"{info.filename} is not stored as it should be")


class _View(io.RawIOBase):
    """A region as a file: `zipfile` reads only the directory at its end."""

    def __init__(self, region: Region) -> None:
        self._region, self._position = region, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._region.size}[whence]
        if position < 0:
            raise OSError("seek before the start")
        self._position = position
        return position

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._region.size - self._position))
        self._region.read_into(self._position, memoryview(buffer)[:count])
        self._position += count
        return count


# Fields of what the pickle builds


def _field(value: Any, kind: str, field: str, name: str, *default: None) -> Any:
    """A field of a stand-in for the class `kind`; older and newer versions of torch leave some out."""
    if type(value) is STAND_INS[kind] and isinstance(value.state, dict):
        if field in value.state:
            return value.state[field]
        if default:
            return default[0]
    raise UserError(f"{name} is not the metadata of a torch_dist checkpoint: it has no {kind} with {field!r}")


def _dictionary(value: Any, name: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{name} is not the metadata of a torch_dist checkpoint: {_shown(value)} is no dictionary")
    return value


def _sizes(value: Any, name: str) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)) or not all(type(size) is int and 0 <= size < 2**63 for size in value):
        raise UserError(f"{name} is not the metadata of a torch_dist checkpoint: {_shown(value)} are no sizes")
    return tuple(value)


def _shown(value: Any) -> str:
    """A value that may be anything, also one that grows without bounds when it is printed."""
    if isinstance(value, str):
        return repr(value[:80])
    if value is None or (isinstance(value, int) and abs(value) < 2**63):
        return repr(value)
    if isinstance(value, (tuple, list)) and all(isinstance(part, int | str) for part in value):
        return f"[{', '.join(_shown(part) for part in value[:8])}]"
    return f"a {type(value).__name__}"
