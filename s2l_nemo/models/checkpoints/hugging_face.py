"""A Hugging Face folder of safetensors as a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from s2l_nemo.errors import UserError
from s2l_nemo.models.checkpoints.adapter import CONFIG as ADAPTER_CONFIG
from s2l_nemo.models.checkpoints.adapter import LoraAdapter
from s2l_nemo.models.checkpoints.places import check_no_adapter
from s2l_nemo.models.families import FAMILIES
from s2l_nemo.models.files import read_json_object, small_files
from s2l_nemo.models.formats.dtypes import Dtype
from s2l_nemo.models.formats.regions import Region
from s2l_nemo.models.formats.rows import Rows, cast, same_bytes
from s2l_nemo.models.formats.safetensors_folder import SafetensorsFolder, check_tensors
from s2l_nemo.models.fusion import fuse, hf_fields, hf_shapes
from s2l_nemo.models.hf_config import shape_from_config_json, stated_dtype
from s2l_nemo.models.layout import Entry, entries


class HuggingFaceCheckpoint:
    """See `Checkpoint`."""

    kind = "Hugging Face folder"

    def __init__(self, path: Path, dtype: Dtype | None = None, adapter: LoraAdapter | None = None) -> None:
        """Reads headers only. `dtype` casts. Without it all weights must have the one type that config.json states.

        `adapter` is merged into the weights as they are read.

        Raises UserError for every fault that headers can show (see `safetensors_folder`).
        """
        self.path = path
        self._adapter = adapter
        if adapter is None:
            check_no_adapter(path)
        self.hf_files: Mapping[str, Region] = {
            name: region for name, region in small_files(path).items() if name != ADAPTER_CONFIG
        }
        if "config.json" not in self.hf_files:
            raise UserError(f"{path} has no config.json: give the folder of a Hugging Face model")
        config_file = path / "config.json"
        config = read_json_object(self.hf_files["config.json"].read(), config_file)
        self.shape = shape_from_config_json(config_file, config)
        self._stored = SafetensorsFolder(path)
        own_entries = entries(self.shape)
        expected = {
            name: (sizes, fields)
            for entry in own_entries
            for name, sizes, fields in zip(
                entry.hf_names(), hf_shapes(entry.rule, self.shape), hf_fields(entry.rule), strict=True
            )
        }
        (output,) = FAMILIES[self.shape.family].table.output.hf
        self.redundant_output = self.shape.tied and output in self._stored.tensors
        if self.redundant_output:
            expected[output] = (self.shape.vocab, self.shape.hidden), "vocab_size x hidden_size"
        weights = {
            name: tensor
            for name, tensor in self._stored.tensors.items()
            if not name.endswith("rotary_emb.inv_freq")  # a buffer of older transformers, computed from rope_theta
        }
        self.dtype = check_tensors(
            weights, expected, folder=path, dtype=dtype, stated_dtype=stated_dtype(config_file, config)
        )
        if adapter is not None:  # a tied model's copy of its embedding is none of them: a change of it would be lost
            adapter.check({name: weights[name] for entry in own_entries for name in entry.hf_names()})
        self._own = {entry.tensor: entry for entry in own_entries}
        if self.redundant_output:
            self._check_redundant(output)

    def rows(self, entry: Entry) -> Rows:
        own = self._own[entry.tensor]  # `entry` may be under another family's names
        return fuse(own.rule, [self._weight(name) for name in own.hf_names()], self.shape)

    def _weight(self, name: str) -> Rows:
        """A weight with the adapter, in the type of the output."""
        rows, stored = self._stored.rows(name), self._stored.tensors[name].dtype
        merged = self._adapter and self._adapter.merged(name, rows, stored, self.dtype)
        return merged or cast(rows, stored, self.dtype)

    def _check_redundant(self, output: str) -> None:
        """A tied model may store its embedding again as output layer. An output layer that differs would be lost."""
        (embedding,) = FAMILIES[self.shape.family].table.embedding.hf
        if not same_bytes(self._stored.rows(embedding), self._stored.rows(output)):
            raise UserError(
                f"{self._stored.tensors[output].file}: {output} differs from {embedding}, but config.json says "
                "tie_word_embeddings=true: set it to false, or remove the tensor"
            )
