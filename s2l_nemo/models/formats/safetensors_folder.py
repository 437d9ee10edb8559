"""Folders of safetensors, as Hugging Face writes them, read from their headers and trusted in nothing.

Format: https://github.com/huggingface/safetensors#format (8 bytes of length, little-endian; a JSON header; the data).
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2l_nemo.errors import UserError
from s2l_nemo.models.formats.dtypes import BFLOAT16, FLOAT16, FLOAT32, Dtype
from s2l_nemo.models.formats.regions import Region
from s2l_nemo.models.formats.rows import FileRows, Rows

DTYPES = {"F32": FLOAT32, "BF16": BFLOAT16, "F16": FLOAT16}
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors package
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth")
_WRAPPERS = {"_orig_mod.": "torch.compile", "module.": "DistributedDataParallel", "base_model.": "peft"}
_LISTED = 10  # names that a message lists before "and N more"
_AGAIN = "download or copy it again"


@dataclass(frozen=True)
class StoredTensor:
    """What a header says of one tensor."""

    file: Path
    dtype: Dtype
    shape: tuple[int, ...]


class SafetensorsFolder:
    """The tensors of a folder by name, file after file in the order of their bytes.

    Only headers are read. Raises UserError where the files are missing, damaged, pickled or quantised, and where they
    and their index disagree.
    """

    tensors: Mapping[str, StoredTensor]

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder: give the folder of a checkpoint")
        present = {path.name for path in folder.iterdir() if path.is_file()}
        weight_map = _read_index(folder, present) if INDEX in present else None
        if weight_map is not None and SINGLE in present and not set(weight_map.values()) & present:
            weight_map = None  # left of an earlier save, all of whose shards are gone; transformers takes the one file
        files = [_only_file(folder, present)] if weight_map is None else sorted(set(weight_map.values()))
        headers = {file: read_header(folder / file) for file in files}
        _check_unique(folder, headers)
        if weight_map is not None:
            _check_index(folder, weight_map, headers)
        self.tensors = {name: tensor for header in headers.values() for name, (tensor, _) in header.items()}
        self._offsets = {name: offset for header in headers.values() for name, (_, offset) in header.items()}

    def rows(self, name: str) -> Rows:
        """The bytes [n, bytes per row] of a tensor [n, ...]; a scalar is one row."""
        tensor = self.tensors[name]
        count = tensor.shape[0] if tensor.shape else 1
        row_bytes = math.prod(tensor.shape[1:]) * tensor.dtype.itemsize
        return (FileRows(Region(tensor.file, self._offsets[name], count * row_bytes), row_bytes),)


def read_header(path: Path) -> dict[str, tuple[StoredTensor, int]]:
    """Tensors of one file with the offsets of their bytes in it, in the order of these offsets.

    Raises UserError unless the header is sound and the file ends where the header says.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if prefix == b"version ":
            raise UserError(f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` in its folder")
        if length > MAX_HEADER:
            raise UserError(f"{path} is no safetensors file: its header would have {length} bytes: {_AGAIN}")
        if size < 8 + length:
            raise UserError(f"{path} is cut short: its header ends at byte {8 + length}, it has {size} bytes: {_AGAIN}")
        fields = _json_object(file.read(length), f"the header of {path}", parse_int=_size)
    metadata = fields.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise UserError(f"{path}: __metadata__ of its header is not a map of strings: {_AGAIN}")
    spans = {name: _span(path, name, entry) for name, entry in fields.items()}
    end = 0
    header = {}
    for name, (tensor, start, stop) in sorted(spans.items(), key=lambda item: item[1][1:]):
        if start != end:
            fault = "overlaps the tensor before it" if start < end else "leaves a hole before it"
            raise UserError(f"{path}: {name} {fault} (it begins at {start}, not at {end}): {_AGAIN}")
        header[name] = (tensor, 8 + length + start)
        end = stop
    if size != 8 + length + end:
        fault = "is cut short" if size < 8 + length + end else "is too long"
        raise UserError(f"{path} {fault}: its header says {8 + length + end} bytes, it has {size}: {_AGAIN}")
    return header


def check_tensors(
    stored: Mapping[str, StoredTensor],
    expected: Mapping[str, tuple[tuple[int, ...], str]],
    *,
    folder: Path,
    dtype: Dtype | None,
    stated_dtype: Dtype | None,
) -> Dtype:
    """The dtype of the output: `dtype` (the user's), else the one that all tensors have and config.json states.

    `expected` maps each name to its shape and the config fields that the shape comes from.

    Raises UserError for missing and extra tensors, wrong shapes, and, without `dtype`, for mixed dtypes or another
    dtype than `stated_dtype`.
    """
    _check_names(stored, expected, folder)
    for name, tensor in stored.items():
        shape, fields = expected[name]
        if tensor.shape != shape:
            raise UserError(
                f"{tensor.file}: {name} has shape {list(tensor.shape)}, not {list(shape)} ({fields}): "
                "give the config.json that belongs to these weights"
            )
    if dtype is not None:
        return dtype
    examples = {tensor.dtype: name for name, tensor in stored.items()}
    if len(examples) > 1:
        mixed = ", ".join(f"{name} is {found}" for found, name in examples.items())
        raise UserError(f"{folder} mixes dtypes ({mixed}): choose the output's with --dtype")
    [(found, name)] = examples.items()
    if stated_dtype not in (None, found):
        raise UserError(
            f"{stored[name].file}: {name} is {found}, but config.json says {stated_dtype}: "
            "choose the output's dtype with --dtype"
        )
    return found


def _check_names(stored: Mapping[str, StoredTensor], expected: Collection[str], folder: Path) -> None:
    missing = [name for name in expected if name not in stored]
    extra = [name for name in stored if name not in expected]
    biases = [name for name in extra if name.endswith(".bias")]
    if biases:
        raise UserError(
            f"{stored[biases[0]].file}: the checkpoint has biases ({_listed(biases)}) and the models of this project "
            "have none: give a checkpoint of a supported model"
        )
    prefix = next((one for one in _WRAPPERS if stored and all(name.startswith(one) for name in stored)), None)
    if prefix is not None:
        raise UserError(
            f"{folder}: all tensors begin with {prefix}, the name of a wrapper ({_WRAPPERS[prefix]}): "
            "save the model inside it"
        )
    faults = [f"lacks {len(missing)} tensors ({_listed(missing)})"] if missing else []
    faults += [f"has {len(extra)} that the model does not have ({_listed(extra)})"] if extra else []
    if faults:
        raise UserError(f"{folder} {' and '.join(faults)}: give all the weights that belong to its config.json")


def _only_file(folder: Path, present: Collection[str]) -> str:
    """The one file of weights of a folder without an index."""
    if SINGLE in present:
        return SINGLE
    weights = sorted(name for name in present if name.endswith(".safetensors"))
    if len(weights) == 1:
        return weights[0]
    if weights:
        raise UserError(f"{folder} has {len(weights)} safetensors files ({_listed(weights)}) and no {INDEX}: add it")
    pickles = sorted({path.name for pattern in _PICKLES for path in folder.glob(pattern)})
    if pickles:
        raise UserError(
            f"{folder} has only pickled weights ({_listed(pickles)}), which are never loaded: "
            "give the checkpoint as safetensors"
        )
    raise UserError(f"{folder} has neither {SINGLE} nor {INDEX}: give the folder of a checkpoint in safetensors")


def _read_index(folder: Path, present: Collection[str]) -> dict[str, str]:
    """Tensor name to file name, each a file of the folder itself."""
    path = folder / INDEX
    weight_map = _json_object(path.read_bytes(), str(path)).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{path} has no weight_map (tensor names to file names): {_AGAIN}")
    for name, file in weight_map.items():
        if not isinstance(file, str) or not file.endswith(".safetensors"):
            raise UserError(f"{path}: the file of {name} is {file!r}, not the name of a .safetensors file: {_AGAIN}")
        if "/" in file or "\\" in file:
            raise UserError(f"{path}: the file of {name} is {file!r}, a path: shards must lie beside their index")
    files = set(weight_map.values())
    missing = sorted(files - set(present))
    if len(missing) == len(files) and SINGLE in present:
        return weight_map
    if missing:
        raise UserError(f"{folder} lacks {len(missing)} of {len(files)} shards ({_listed(missing)}): download them")
    if SINGLE in present and SINGLE not in files:
        raise UserError(f"{folder} has both {SINGLE} and {INDEX}, which does not name it: remove the wrong one")
    return weight_map


def _check_unique(folder: Path, headers: Mapping[str, Collection[str]]) -> None:
    first: dict[str, str] = {}
    for file, header in headers.items():
        for name in header:
            if name in first:
                raise UserError(f"{folder}: {name} is in both {first[name]} and {file}: {_AGAIN}")
            first[name] = file


def _check_index(folder: Path, weight_map: Mapping[str, str], headers: Mapping[str, Collection[str]]) -> None:
    absent = [f"{name} in {file}" for name, file in weight_map.items() if name not in headers[file]]
    if absent:
        raise UserError(f"{folder / INDEX} names tensors that are not there ({_listed(absent)}): {_AGAIN}")
    unlisted = [f"{name} in {file}" for file, header in headers.items() for name in header if name not in weight_map]
    if unlisted:
        raise UserError(f"{folder / INDEX} does not name all tensors of its shards ({_listed(unlisted)}): {_AGAIN}")


def _span(path: Path, name: str, entry: Any) -> tuple[StoredTensor, int, int]:
    """A tensor and where its bytes begin and end, counted from the end of the header."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise UserError(f"{path}: {name} does not have just dtype, shape and data_offsets in the header: {_AGAIN}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2 or not isinstance(dtype, str):
        raise UserError(f"{path}: {name} has dtype {dtype!r}, shape {shape!r}, data_offsets {offsets!r}: {_AGAIN}")
    if dtype not in DTYPES:
        raise UserError(
            f"{path}: {name} has unsupported dtype {dtype}; {', '.join(DTYPES)} are supported: give the bf16 checkpoint"
        )
    tensor = StoredTensor(path, DTYPES[dtype], tuple(shape))
    needed = math.prod(shape) * tensor.dtype.itemsize
    if offsets[1] - offsets[0] != needed:
        raise UserError(
            f"{path}: {name} ({dtype}, {shape}) needs {needed} bytes, its data_offsets are {offsets}: {_AGAIN}"
        )
    return tensor, offsets[0], offsets[1]


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(number) is int for number in value)  # not bool, and see _size


def _size(digits: str) -> int:
    if digits.startswith("-") or len(digits) > 18:
        raise ValueError(f"{digits[:20]} is no size")
    return int(digits)


def _json_object(data: bytes, what: str, **options: Any) -> dict[str, Any]:
    try:
        loaded = json.loads(data.decode(), object_pairs_hook=_without_duplicates, **options)
    except (ValueError, RecursionError) as error:  # also not UTF-8
        raise UserError(f"{what} is not valid JSON ({error}): {_AGAIN}") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{what} is not a JSON object: {_AGAIN}")
    return loaded


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for key, value in pairs:
        if key in unique:
            raise ValueError(f"duplicate key {key}")
        unique[key] = value
    return unique


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
