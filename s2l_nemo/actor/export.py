"""What a run leaves for others: the trained model as a Hugging Face folder, and what a `.nemo` file needs besides."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from s2l_nemo.errors import UserError
from s2l_nemo.models.checkpoints.checkpoint import Checkpoint
from s2l_nemo.models.checkpoints.nemo import CONVERSION
from s2l_nemo.models.checkpoints.tensors import dtype_of, tensors_of_buckets
from s2l_nemo.models.checkpoints.to_hugging_face import HuggingFaceExport
from s2l_nemo.models.files import HF_FILES
from s2l_nemo.models.formats.output import new_output

Buckets = Iterator[dict[str, torch.Tensor]]


def write_hugging_face_files(folder: Path, origin: Checkpoint) -> None:
    """Writes the small Hugging Face files of `origin` into a checkpoint's folder, so that `model.path` may name it."""
    for name, content in _beside_the_weights(origin).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _beside_the_weights(origin: Checkpoint) -> dict[str, bytes]:
    """What a NeMo checkpoint of this model holds besides its weights, by name."""
    contents = {f"{HF_FILES}/{name}": region.read() for name, region in origin.hf_files.items()}
    contents[CONVERSION] = json.dumps({"redundant_output": origin.redundant_output}).encode()
    return contents


def add_hugging_face_files(nemo_file: Path, origin: Checkpoint) -> None:
    """Adds the small Hugging Face files of `origin` to NeMo's own `.nemo`, so that `model.path` may name it."""
    with tarfile.open(nemo_file, "a:") as archive:
        for name, content in _beside_the_weights(origin).items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def save_hugging_face(buckets: Buckets, origin: Checkpoint, dtype: torch.dtype, path: Path) -> None:
    """Writes the folder `path`, in place of one that is there, all or nothing. Collective.

    `buckets` are all tensors under the names of `origin`, from which the small files come. Rank 0 writes the buckets as
    they arrive. Raises UserError on every rank if it cannot.
    """
    outcome: list[Any] = [None]
    if torch.distributed.get_rank() == 0:
        try:
            _write(buckets, origin, dtype, path)
        except UserError as error:
            outcome = [error]
        except OSError as error:
            outcome = [UserError(f"{path} cannot be written ({error.strerror}): free the disk and run again")]
    for _ in buckets:  # rank 0 takes part to the end even if it has failed
        pass
    torch.distributed.broadcast_object_list(outcome, 0)
    if outcome[0] is not None:
        raise outcome[0]


def _write(buckets: Buckets, origin: Checkpoint, dtype: torch.dtype, path: Path) -> None:
    export = HuggingFaceExport(origin.shape, dtype_of(dtype), origin.hf_files, redundant_output=origin.redundant_output)
    with new_output(path, export.files, tar=False, force=True) as output:
        export.write(output, tensors_of_buckets(buckets))
