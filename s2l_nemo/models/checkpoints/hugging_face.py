"""A Hugging Face folder of safetensors as a checkpoint, under any of the three families' names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from s2l_nemo.models.shape import shape_from_config_json
from s2l_nemo.models.formats.dtypes import Dtype
from s2l_nemo.models.hf_config import read_json_object, small_files, stated_dtype
from s2l_nemo.models.names import TABLES, fuse, hf_fields, hf_shapes
from s2l_nemo.models.layout import Entry, entries
from s2l_nemo.models.formats.regions import Region
from s2l_nemo.models.formats.rows import Rows, cast, same_bytes
from s2l_nemo.models.formats.safetensors_folder import SafetensorsFolder, check_tensors
from s2l_nemo.errors import UserError


class HuggingFaceCheckpoint:
    """See `Checkpoint`."""

    kind = "Hugging Face folder"

    def __init__(self, path: Path, dtype: Dtype | None = None) -> None:
        """Reads headers only. `dtype` casts; without it all weights must have one type, the one config.json states.

        Raises UserError for every fault that headers can show; see `safetensors_folder`.
        """
        self.path = path
        self.hf_files: Mapping[str, Region] = small_files(path)
        if "config.json" not in self.hf_files:
            raise UserError(f"{path} has no config.json: give the folder of a Hugging Face model")
        config_file = path / "config.json"
        config = read_json_object(self.hf_files["config.json"])
        self.shape = shape_from_config_json(config_file, config)
        self._stored = SafetensorsFolder(path)
        expected = {
            name: (sizes, fields)
            for entry in entries(self.shape)
            for name, sizes, fields in zip(
                entry.hf_names(), hf_shapes(entry.rule, self.shape), hf_fields(entry.rule), strict=True
            )
        }
        (output,) = TABLES[self.shape.family].output.hf
        self.redundant_output = self.shape.tied and output in self._stored.tensors
        if self.redundant_output:
            expected[output] = (self.shape.vocab, self.shape.hidden), "vocab_size x hidden_size"
        self.dtype = check_tensors(
            self._stored.tensors, expected, folder=path, dtype=dtype, stated_dtype=stated_dtype(config_file, config)
        )
        self._names = {entry.tensor: entry.hf_names() for entry in entries(self.shape)}
        self._rules = {entry.tensor: entry.rule for entry in entries(self.shape)}
        if self.redundant_output:
            self._check_redundant(output)

    def rows(self, entry: Entry) -> Rows:
        tensors = [
            cast(self._stored.rows(name), self._stored.tensors[name].dtype, self.dtype)
            for name in self._names[entry.tensor]
        ]
        return fuse(self._rules[entry.tensor], tensors, self.shape)

    def _check_redundant(self, output: str) -> None:
        """A tied model may repeat its embedding as output layer; one that differs would be lost."""
        (embedding,) = TABLES[self.shape.family].embedding.hf
        if not same_bytes(self._stored.rows(embedding), self._stored.rows(output)):
            raise UserError(
                f"{self._stored.tensors[output].file}: {output} differs from {embedding}, but config.json says "
                "tie_word_embeddings=true: set it to false, or remove the tensor"
            )
