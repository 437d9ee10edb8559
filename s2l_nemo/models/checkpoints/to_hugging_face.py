"""Writes a Hugging Face folder, from a checkpoint or from the weights of a running actor."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from s2l_nemo.models.shape import Family, ModelShape
from s2l_nemo.models.checkpoints.checkpoint import Checkpoint
from s2l_nemo.models.formats.dtypes import Dtype
from s2l_nemo.models.hf_config import (
    config_of_shape,
    llama_config,
    read_json_object,
    tokenizer_config_as_llama,
    with_dtype,
)
from s2l_nemo.models.names import TABLES, hf_shapes, split
from s2l_nemo.models.formats.output import Output
from s2l_nemo.models.layout import entries
from s2l_nemo.models.formats.regions import Region
from s2l_nemo.models.formats.rows import Rows
from s2l_nemo.models.formats.safetensors_writer import SafetensorsPlan, TensorPlan

MAX_SHARD_BYTES = 5 * 10**9  # of transformers


class HuggingFaceExport:
    """The files of a Hugging Face folder, planned before a byte is written."""

    def __init__(
        self,
        shape: ModelShape,
        dtype: Dtype,
        hf_files: Mapping[str, Region],
        *,
        as_llama: bool = False,
        redundant_output: bool = False,
        max_shard_bytes: int = MAX_SHARD_BYTES,
    ) -> None:
        """`hf_files`: config.json, tokenizer, ... to take over; without a config.json one is made from `shape`.

        `as_llama` gives InternLM2.5 Llama's names and configuration. `redundant_output` repeats a tied embedding as
        output layer, where the source did.
        """
        self.shape, self.dtype, self._redundant = shape, dtype, redundant_output
        self.family: Family = "llama" if as_llama else shape.family
        self._small = _small_contents(shape, dtype, hf_files, as_llama)
        tensors = [
            TensorPlan(name, sizes)
            for entry in entries(shape, family=self.family)
            for name, sizes in zip(entry.hf_names(), hf_shapes(entry.rule, shape), strict=True)
        ]
        if redundant_output:
            tensors.append(TensorPlan(self._output_name, (shape.vocab, shape.hidden)))
        self._weights = SafetensorsPlan(tensors, dtype, max_shard_bytes)
        self.files: dict[str, int] = {name: len(content) for name, content in self._small.items()}
        self.files |= self._weights.files

    @property
    def _output_name(self) -> str:
        return TABLES[self.family].output.hf[0]

    def write(self, output: Output, tensors: Iterable[tuple[str, Rows]]) -> None:
        """`tensors`: rows of bytes of every Hugging Face tensor, in the order of `entries`."""
        for name, content in self._small.items():
            with output.file(name) as write:
                write(content)
        self._weights.write(output, self._with_redundant(tensors))

    def _with_redundant(self, tensors: Iterable[tuple[str, Rows]]) -> Iterator[tuple[str, Rows]]:
        embedding: Rows = ()
        for name, rows in tensors:
            embedding = embedding or rows  # the first
            yield name, rows
        if self._redundant:
            yield self._output_name, embedding


def tensors_of(checkpoint: Checkpoint, family: Family) -> Iterator[tuple[str, Rows]]:
    """Rows of every Hugging Face tensor of a checkpoint under the names of `family`."""
    for entry in entries(checkpoint.shape, family=family):
        parts = split(entry.rule, checkpoint.rows(entry), checkpoint.shape)
        yield from zip(entry.hf_names(), parts, strict=True)


def _small_contents(
    shape: ModelShape, dtype: Dtype, hf_files: Mapping[str, Region], as_llama: bool
) -> dict[str, bytes]:
    """Files of the source as they are; config.json only where names or type of the weights change."""
    contents = {name: region.read() for name, region in sorted(hf_files.items())}
    if "config.json" not in contents:
        return {"config.json": _json(config_of_shape(shape, dtype)), **contents}
    config = read_json_object(hf_files["config.json"])
    changed = with_dtype(config, dtype)
    if as_llama and config["model_type"] == "internlm2":
        changed = llama_config(changed, shape)
        contents = {name: content for name, content in contents.items() if not name.endswith(".py")}
        if "tokenizer_config.json" in contents:
            tokenizer = read_json_object(hf_files["tokenizer_config.json"])
            tokenizer = tokenizer_config_as_llama(tokenizer, "tokenizer.json" in contents)
            contents["tokenizer_config.json"] = _json(tokenizer)
    if changed != config:
        contents["config.json"] = _json(changed)
    return contents


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
