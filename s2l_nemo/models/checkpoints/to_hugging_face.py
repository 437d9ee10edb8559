"""Writes a Hugging Face folder, from a checkpoint or from the weights of a running actor."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from s2l_nemo.models.checkpoints.checkpoint import Checkpoint
from s2l_nemo.models.families import FAMILIES
from s2l_nemo.models.files import read_json_object
from s2l_nemo.models.formats.dtypes import Dtype
from s2l_nemo.models.formats.output import Output, content_size, write_content
from s2l_nemo.models.formats.regions import Region
from s2l_nemo.models.formats.rows import Rows
from s2l_nemo.models.formats.safetensors_writer import SafetensorsPlan, TensorPlan
from s2l_nemo.models.fusion import hf_shapes, split
from s2l_nemo.models.hf_config import config_of_shape, engine_config, engine_tokenizer_config, with_dtype
from s2l_nemo.models.layout import entries
from s2l_nemo.models.shape import ModelShape
from s2l_nemo.models.tokenizer import sentencepiece_json

MAX_SHARD_BYTES = 5 * 10**9  # of transformers


class HuggingFaceExport:
    """The files of a Hugging Face folder, planned before a byte is written."""

    def __init__(
        self,
        shape: ModelShape,
        dtype: Dtype,
        hf_files: Mapping[str, Region],
        *,
        engine_form: bool = False,
        redundant_output: bool = False,
        max_shard_bytes: int = MAX_SHARD_BYTES,
    ) -> None:
        """`hf_files` are taken over: config.json, tokenizer, ... If there is no config.json, one is made from `shape`.

        `engine_form` gives the model the names and the configuration that engines know (see `EngineForm`).
        `redundant_output` stores a tied embedding again as output layer.
        """
        self.shape, self.dtype, self._redundant = shape, dtype, redundant_output
        self.family = shape.engine_family if engine_form else shape.family
        self._small = _small_contents(shape, dtype, hf_files, engine_form)
        tensors = [
            TensorPlan(name, sizes)
            for entry in entries(shape, family=self.family)
            for name, sizes in zip(entry.hf_names(), hf_shapes(entry.rule, shape), strict=True)
        ]
        if redundant_output:
            tensors.append(TensorPlan(self._output_name, (shape.vocab, shape.hidden)))
        self._weights = SafetensorsPlan(tensors, dtype, max_shard_bytes)
        self.files: dict[str, int] = {name: content_size(content) for name, content in self._small.items()}
        self.files |= self._weights.files

    @property
    def _output_name(self) -> str:
        return FAMILIES[self.family].table.output.hf[0]

    def write(self, output: Output, tensors: Iterable[tuple[str, Rows]]) -> None:
        """`tensors` gives the rows of every Hugging Face tensor in the order of `entries`."""
        for name, content in self._small.items():
            with output.file(name) as write:
                write_content(write, content)
        self._weights.write(output, self._with_redundant(tensors))

    def _with_redundant(self, tensors: Iterable[tuple[str, Rows]]) -> Iterator[tuple[str, Rows]]:
        embedding: Rows = ()
        for name, rows in tensors:
            embedding = embedding or rows  # the first
            yield name, rows
        if self._redundant:
            yield self._output_name, embedding


def tensors_of(checkpoint: Checkpoint, family: str) -> Iterator[tuple[str, Rows]]:
    """Yields the rows of every tensor of a checkpoint under the Hugging Face names of `family`."""
    for entry in entries(checkpoint.shape, family=family):
        parts = split(entry.rule, checkpoint.rows(entry), checkpoint.shape)
        yield from zip(entry.hf_names(), parts, strict=True)


def _small_contents(
    shape: ModelShape, dtype: Dtype, hf_files: Mapping[str, Region], engine_form: bool
) -> dict[str, bytes | Region]:
    """The files of the source, unread where they do not change.

    config.json changes only if the names or the type of the weights do.

    A tokenizer that is a SentencePiece model gets a tokenizer.json in the engine form, which lacks its code.
    """
    contents: dict[str, bytes | Region] = dict(sorted(hf_files.items()))
    if "config.json" not in contents:
        return {"config.json": _json(config_of_shape(shape, dtype)), **contents}
    config = _object(hf_files, "config.json")
    changed = with_dtype(config, dtype)
    if engine_form and shape.engine_family != shape.family:
        changed = engine_config(changed, shape)
        folder = str(hf_files["config.json"].path.parent)
        made = sentencepiece_json(folder, {name: region.read for name, region in hf_files.items()})
        if made is not None:
            contents = {**contents, "tokenizer.json": made.encode()}
        contents = {name: content for name, content in contents.items() if not name.endswith(".py")}
        if "tokenizer_config.json" in contents:
            tokenizer = _object(hf_files, "tokenizer_config.json")
            contents["tokenizer_config.json"] = _json(engine_tokenizer_config(tokenizer))
    if changed != config:
        contents["config.json"] = _json(changed)
    return contents


def _object(hf_files: Mapping[str, Region], name: str) -> dict[str, Any]:
    return read_json_object(hf_files[name].read(), hf_files[name].path)


def _json(content: Mapping[str, Any]) -> bytes:
    # Half a surrogate pair stays the escape that it was in the source: nothing else can be written for it.
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
