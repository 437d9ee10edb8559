"""A checkpoint of any format, as what all of them hold: figures, a type, and the rows of every Megatron tensor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from s2l_nemo.models.shape import ModelShape
from s2l_nemo.models.formats.dtypes import Dtype
from s2l_nemo.models.layout import Entry
from s2l_nemo.models.formats.regions import Region
from s2l_nemo.models.formats.rows import Rows


class Checkpoint(Protocol):
    """Opened and validated from headers: nothing about it can be wrong any more but the bytes of its tensors."""

    path: Path
    kind: str  # for people: "Hugging Face folder", "NeMo folder", ...
    shape: ModelShape
    dtype: Dtype
    redundant_output: bool  # tied, and yet an equal output layer is stored, as the hub's Qwen3-0.6B does

    @property
    def hf_files(self) -> Mapping[str, Region]:
        """config.json, tokenizer, ... : all of a Hugging Face folder but its weights."""

    def rows(self, entry: Entry) -> Rows:
        """The full Megatron tensor as rows of bytes, which are read from its files when they are used."""
