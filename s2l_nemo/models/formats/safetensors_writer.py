"""Safetensors written as a stream: names and shapes say what every byte before the data is."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from s2l_nemo.models.formats.dtypes import Dtype
from s2l_nemo.models.formats.output import Output, write_rows
from s2l_nemo.models.formats.rows import Rows, size
from s2l_nemo.models.formats.safetensors_folder import DTYPES, INDEX, SINGLE

_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorPlan:
    """A tensor to write."""

    name: str
    shape: tuple[int, ...]


class SafetensorsPlan:
    """Tensors packed into shards in the order given, each of at most `max_shard_bytes` or of one larger tensor.

    `files` maps the name of each file to its size, in the order of writing: shards, then, for several, the index,
    without which nothing loads them. `total_size` is the bytes of all tensors.
    """

    files: Mapping[str, int]
    total_size: int

    def __init__(self, tensors: Sequence[TensorPlan], dtype: Dtype, max_shard_bytes: int) -> None:
        assert tensors, "no tensors to write"
        assert len({tensor.name for tensor in tensors}) == len(tensors), "two tensors have one name"
        self._dtype = dtype
        shards = list(self._shards(tensors, max_shard_bytes))
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
        self._tensors = dict(zip(names if len(shards) > 1 else [SINGLE], shards, strict=True))
        self._headers = {file: self._header(shard) for file, shard in self._tensors.items()}
        sizes = {file: sum(self._size(tensor) for tensor in shard) for file, shard in self._tensors.items()}
        self.total_size = sum(sizes.values())
        self._index = self._index_file() if len(shards) > 1 else b""
        self.files = {file: len(self._headers[file]) + size for file, size in sizes.items()}
        if self._index:
            self.files[INDEX] = len(self._index)

    def write(self, output: Output, data: Iterable[tuple[str, Rows]]) -> None:
        """Writes all files. `data` gives each tensor's bytes, in the order of the plan; none is kept once written."""
        arriving = iter(data)
        for file, tensors in self._tensors.items():
            with output.file(file) as write:
                write(self._headers[file])
                for tensor in tensors:
                    name, rows = next(arriving, ("nothing", ()))
                    assert name == tensor.name, f"{name} came where {tensor.name} was planned"
                    assert size(rows) == self._size(tensor), f"{name} has {size(rows)} bytes, not {self._size(tensor)}"
                    write_rows(write, rows)
                    del rows  # before the next tensor is made
        assert next(arriving, None) is None, "more tensors came than were planned"
        if self._index:
            with output.file(INDEX) as write:
                write(self._index)

    def _size(self, tensor: TensorPlan) -> int:
        return math.prod(tensor.shape) * self._dtype.itemsize

    def _shards(self, tensors: Sequence[TensorPlan], max_shard_bytes: int) -> Iterator[list[TensorPlan]]:
        shard: list[TensorPlan] = []
        size = 0
        for tensor in tensors:
            if shard and size + self._size(tensor) > max_shard_bytes:
                yield shard
                shard, size = [], 0
            shard.append(tensor)
            size += self._size(tensor)
        yield shard

    def _header(self, shard: Sequence[TensorPlan]) -> bytes:
        """Length and JSON, padded with spaces to 8 bytes: what the safetensors package writes, byte for byte."""
        fields: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers refuses files without it
        start = 0
        for tensor in shard:
            stop = start + self._size(tensor)
            dtype = _DTYPE_NAMES[self._dtype]
            fields[tensor.name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, stop]}
            start = stop
        text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def _index_file(self) -> bytes:
        weight_map = {tensor.name: file for file, shard in self._tensors.items() for tensor in shard}
        index = {"metadata": {"total_size": self.total_size}, "weight_map": weight_map}
        return (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()
