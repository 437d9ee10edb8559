"""Opens a checkpoint of any format."""

from __future__ import annotations

from pathlib import Path

from s2l_nemo.errors import UserError
from s2l_nemo.models.checkpoints.adapter import LoraAdapter
from s2l_nemo.models.checkpoints.checkpoint import Checkpoint
from s2l_nemo.models.checkpoints.hugging_face import HuggingFaceCheckpoint
from s2l_nemo.models.checkpoints.nemo import NemoCheckpoint
from s2l_nemo.models.checkpoints.places import CONFIG, find_torch_dist, foreign, is_hugging_face, missing
from s2l_nemo.models.formats.dtypes import Dtype


def open_checkpoint(
    path: Path, dtype: Dtype | None = None, hf_files: Path | None = None, adapter: Path | None = None
) -> Checkpoint:
    """The checkpoint at `path`, validated from its headers. `dtype` casts its weights. For `hf_files` see
    `NemoCheckpoint`. `adapter` is a folder of peft, which is merged into a Hugging Face model.

    Raises UserError if there is none, or something about it is wrong.
    """
    if not path.exists():
        raise UserError(missing(path))
    hugging_face = is_hugging_face(path)
    if adapter is not None:
        if not hugging_face:
            raise UserError(f"--merge-adapter needs a Hugging Face folder, and {path} is none: convert it first")
        return HuggingFaceCheckpoint(path, dtype, LoraAdapter(adapter))
    if not hugging_face and (path.suffix == ".nemo" or (path.is_dir() and find_torch_dist(path) is not None)):
        return NemoCheckpoint(path, dtype, hf_files)
    strange = None if hugging_face else foreign(path)
    if strange is not None:
        raise UserError(strange)
    if path.is_file() or ((path / CONFIG).is_file() and not hugging_face):
        return NemoCheckpoint(path, dtype, hf_files)
    return HuggingFaceCheckpoint(path, dtype)
