"""Writes NeMo and Megatron checkpoints of the `torch_dist` format, without NeMo and without building a model."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path

import yaml

from s2l_nemo.errors import UserError
from s2l_nemo.models.checkpoints.checkpoint import Checkpoint
from s2l_nemo.models.checkpoints.nemo import CONVERSION
from s2l_nemo.models.checkpoints.places import CONFIG, RELEASE, TRACKER, WEIGHTS
from s2l_nemo.models.files import HF_FILES
from s2l_nemo.models.formats.output import Output, content_size, write_content
from s2l_nemo.models.formats.regions import Region
from s2l_nemo.models.formats.rows import Rows, take
from s2l_nemo.models.formats.torch_dist_writer import ChunkPlan, TorchDistPlan
from s2l_nemo.models.layout import Entry, entries
from s2l_nemo.models.megatron_lm import common_items
from s2l_nemo.models.names import DOWN, GATE_UP, PROJECTION, QKV
from s2l_nemo.models.nemo_config import checkpoint_config
from s2l_nemo.models.shape import ModelShape, full_shape


class Format(Enum):
    """What is written. The values are those of `--format`."""

    NEMO_DIR = "nemo-dir"
    NEMO = "nemo"  # the same files as one `.nemo` tar
    MEGATRON = "megatron"  # for Megatron-LM: a folder `release` without NeMo's configuration and names

    @property
    def tar(self) -> bool:
        return self is Format.NEMO

    @staticmethod
    def of_output(path: Path) -> Format:
        """The format that follows from the name of the output."""
        return Format.NEMO if path.suffix == ".nemo" else Format.NEMO_DIR


# Layers with Transformer Engine keep their fp8 state in these; without fp8 it is None, and it must be there.
_EXTRA_STATE = tuple(name.removesuffix("weight") + "_extra_state" for name in (PROJECTION, QKV, GATE_UP, DOWN))


class NemoExport:
    """The files of a NeMo folder or tar, or of a Megatron-LM folder, planned before a byte is written."""

    def __init__(
        self, checkpoint: Checkpoint, form: Format, tokenizer: str, tp_size: int = 1, pp_size: int = 1
    ) -> None:
        """`tokenizer` and the parallel sizes go into model_config.yaml: NeMo uses them if a restore overrides nothing.
        Any other sizes restore as well, and this project's actor uses the tokenizer inside the checkpoint.

        Raises UserError if the parallel sizes do not divide the model.
        """
        check_divides(checkpoint.shape, tp_size, pp_size)
        self._checkpoint = checkpoint
        shape, megatron = checkpoint.shape, form is Format.MEGATRON
        self._small: dict[str, bytes | Region] = {}
        if megatron:
            self._small[TRACKER] = RELEASE.encode()
        else:
            config = checkpoint_config(shape, checkpoint.dtype, tokenizer, tp_size, pp_size)
            self._small[CONFIG] = yaml.safe_dump(config, sort_keys=False).encode()
        for name, region in sorted(checkpoint.hf_files.items()):
            self._small[f"{HF_FILES}/{name}"] = region
        self._small[CONVERSION] = json.dumps({"redundant_output": checkpoint.redundant_output}).encode()
        prefix = "" if megatron else "model."
        self._chunks: dict[ChunkPlan, tuple[Entry, int]] = {}  # with the row of the tensor where the chunk begins
        for entry in entries(shape):
            self._chunks.update(self._chunks_of(entry, prefix))
        objects = [
            f"{prefix}decoder.layers.{name}/shard_{layer}_{shape.layers}"
            for layer in range(shape.layers)
            for name in _EXTRA_STATE
        ]
        common = common_items(shape, checkpoint.dtype) if megatron else {}
        folder = RELEASE if megatron else WEIGHTS
        self._weights = TorchDistPlan(list(self._chunks), checkpoint.dtype, objects, f"{folder}/", common)
        self.files: dict[str, int] = {name: content_size(content) for name, content in self._small.items()}
        self.files |= self._weights.files

    def _chunks_of(self, entry: Entry, prefix: str) -> dict[ChunkPlan, tuple[Entry, int]]:
        """One chunk for each block of rows, so that a reader at any TP takes rows of each."""
        shape = self._checkpoint.shape
        sizes = full_shape(entry.rule, shape)
        if entry.layer is None:
            return {ChunkPlan(prefix + entry.rule.megatron, sizes, (0,) * len(sizes), sizes): (entry, 0)}
        key = f"{prefix}decoder.layers.{entry.rule.megatron}"
        rows = sizes[0] // entry.rule.blocks
        whole, chunk = (shape.layers, *sizes), (1, rows, *sizes[1:])
        starts = [block * rows for block in range(entry.rule.blocks)]
        return {
            ChunkPlan(key, whole, (entry.layer, start, *[0] * (len(sizes) - 1)), chunk): (entry, start)
            for start in starts
        }

    def write(self, output: Output) -> None:
        for name, content in self._small.items():
            with output.file(name) as write:
                write_content(write, content)
        self._weights.write(output, self._data)

    def _data(self, chunk: ChunkPlan) -> Rows:
        entry, start = self._chunks[chunk]
        rows = self._checkpoint.rows(entry)
        return take(rows, start, start + (chunk.sizes[0] if entry.layer is None else chunk.sizes[1]))


def check_divides(shape: ModelShape, tp_size: int, pp_size: int) -> None:
    """Raises UserError if tensor or pipeline parallelism would cut a head, a row or a layer in two."""
    for name, value in (("num_key_value_heads", shape.kv_heads), ("vocab_size", shape.vocab),
                        ("intermediate_size", shape.ffn)):  # fmt: skip
        if tp_size < 1 or value % tp_size:
            raise UserError(f"--tp {tp_size} does not divide {name}={value} of config.json: choose a divisor")
    if pp_size < 1 or shape.layers % pp_size:
        raise UserError(f"--pp {pp_size} does not divide num_hidden_layers={shape.layers}: choose a divisor")
