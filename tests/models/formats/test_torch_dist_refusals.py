"""Hostile and damaged distributed checkpoints are refused."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import (
    Metadata,
)

from s2l_nemo.errors import UserError
from tests.models.formats.torch_dist import (
    edit_metadata,
    reader,
    replace_item,
    replace_item_bytes,
    write_by_torch,
)


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
    with pytest.raises(UserError, match=r"\.metadata calls posix\.system, refused: the reader does not know it"):
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
def test_r10_any_other_pickle_is_refused(checkpoint: Path, code: bytes) -> None:
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
