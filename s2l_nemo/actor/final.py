"""What a run leaves for others: the trained model as a `.nemo` file and as a Hugging Face folder."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from s2l_nemo.errors import UserError
from s2l_nemo.models.checkpoints.nemo import CONVERSION
from s2l_nemo.models.checkpoints.tensors import dtype_of, tensors_of_buckets
from s2l_nemo.models.checkpoints.to_hugging_face import HuggingFaceExport
from s2l_nemo.models.files import HF_FILES
from s2l_nemo.models.formats.output import new_output

if TYPE_CHECKING:
    from s2l_nemo.actor.actor import S2LActor


def save_nemo(actor: S2LActor, path: Path) -> None:
    """Writes NeMo's own `.nemo` with the small Hugging Face files added: all that `model.path` needs. Collective."""
    assert actor.origin is not None
    actor.save_to(str(path))
    if torch.distributed.get_rank() == 0:
        contents = {f"{HF_FILES}/{name}": region.read() for name, region in actor.origin.hf_files.items()}
        contents[CONVERSION] = json.dumps({"redundant_output": actor.origin.redundant_output}).encode()
        _append(path, contents)
    torch.distributed.barrier()


def _append(path: Path, contents: Mapping[str, bytes]) -> None:
    with tarfile.open(path, "a:") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def save_hugging_face(actor: S2LActor, path: Path) -> None:
    """Writes the folder `path` under the model's own names, in place of one that is there, all or nothing. Collective.

    Rank 0 writes bucket by bucket as the tensors arrive. Raises UserError on every rank where it cannot.
    """
    assert actor.origin is not None
    buckets = actor.export_weights(actor.shape.family)
    outcome: list[Any] = [None]
    if torch.distributed.get_rank() == 0:
        try:
            _write(actor, path, buckets)
        except UserError as error:
            outcome = [error]
        except OSError as error:
            outcome = [UserError(f"{path} cannot be written ({error.strerror}): free the disk and run again")]
    for _ in buckets:  # rank 0 takes part to the end even if it has failed
        pass
    torch.distributed.broadcast_object_list(outcome, 0)
    if outcome[0] is not None:
        raise outcome[0]


def _write(actor: S2LActor, path: Path, buckets: Iterable[dict[str, torch.Tensor]]) -> None:
    assert actor.origin is not None
    export = HuggingFaceExport(
        actor.shape, dtype_of(actor.weight_dtype), actor.origin.hf_files, redundant_output=actor.origin.redundant_output
    )
    with new_output(path, export.files, tar=False, force=True) as output:
        export.write(output, tensors_of_buckets(buckets))
