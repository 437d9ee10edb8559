"""What a checkpoint of any format gives: figures, a type, and the rows of every Megatron tensor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from s2l_nemo.models.formats.dtypes import Dtype
from s2l_nemo.models.formats.regions import Region
from s2l_nemo.models.formats.rows import Rows
from s2l_nemo.models.layout import Entry
from s2l_nemo.models.shape import ModelShape


class Checkpoint(Protocol):
    """An open checkpoint. Its headers have been checked: only the bytes of its tensors may still be wrong."""

    path: Path
    kind: str  # for people: "Hugging Face folder", "NeMo folder", ...
    shape: ModelShape
    dtype: Dtype
    redundant_output: bool  # tied, and yet an equal output layer is stored, as in the hub's Qwen3-0.6B

    @property
    def hf_files(self) -> Mapping[str, Region]:
        """The files of a Hugging Face folder besides its weights: config.json, tokenizer, ..."""

    def rows(self, entry: Entry) -> Rows:
        """The full Megatron tensor as rows of bytes. They are read from the files when they are used."""
