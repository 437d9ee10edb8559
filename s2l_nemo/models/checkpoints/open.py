"""Opens a checkpoint of any format."""

from __future__ import annotations

from pathlib import Path

from s2l_nemo.errors import UserError
from s2l_nemo.models.checkpoints.checkpoint import Checkpoint
from s2l_nemo.models.checkpoints.hugging_face import HuggingFaceCheckpoint
from s2l_nemo.models.checkpoints.nemo import NemoCheckpoint, is_nemo
from s2l_nemo.models.formats.dtypes import Dtype


def open_checkpoint(path: Path, dtype: Dtype | None = None, hf_files: Path | None = None) -> Checkpoint:
    """The checkpoint at `path`, validated from its headers. `dtype` casts its weights. For `hf_files` see
    `NemoCheckpoint`.

    Raises UserError if there is none, or something about it is wrong.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: give a Hugging Face folder, a NeMo folder or a .nemo file")
    if is_nemo(path):
        return NemoCheckpoint(path, dtype, hf_files)
    return HuggingFaceCheckpoint(path, dtype)
