"""NeMo and Megatron checkpoints of the `torch_dist` format, as folder or `.nemo` tar, read without NeMo."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s2l_nemo.errors import UserError
from s2l_nemo.models.checkpoints.places import CONFIG, RELEASE, WEIGHTS, find_torch_dist
from s2l_nemo.models.files import HF_FILES, read_json_object, small_files
from s2l_nemo.models.formats.dtypes import Dtype
from s2l_nemo.models.formats.regions import Region, folder_regions, tar_regions
from s2l_nemo.models.formats.rows import Rows, cast, take
from s2l_nemo.models.formats.torch_dist import TorchDistReader
from s2l_nemo.models.formats.yaml_config import read_yaml_mapping
from s2l_nemo.models.hf_config import shape_from_config_json
from s2l_nemo.models.layout import Entry, entries
from s2l_nemo.models.names import EMBEDDING, OUTPUT
from s2l_nemo.models.nemo_config import check_same_figures, shape_from_nemo
from s2l_nemo.models.nemo_keys import check_keys, with_nemo_defaults
from s2l_nemo.models.shape import ModelShape, full_shape

CONVERSION = "conversion.json"  # what the tensors cannot say: {"redundant_output": bool}
PREFIXES = ("model.", "", "module.")  # of tensor names: NeMo 1, Megatron-LM, NeMo 2
_NO_WEIGHTS = re.compile(r"(chained_\d+\.)?optimizer|opt_param_scheduler|rng_state|rerun_state|scheduler|common_state")


class NemoCheckpoint:
    """See `Checkpoint`."""

    def __init__(self, path: Path, dtype: Dtype | None = None, hf_files: Path | None = None) -> None:
        """Reads configuration and metadata only. `dtype` casts. `hf_files` is a folder with config.json and tokenizer,
        for a checkpoint that carries none.

        Raises UserError if the files, figures and tensors do not fit together.
        """
        self.path = path
        if path.is_dir():
            place = find_torch_dist(path)
            if place is None:
                raise UserError(
                    f"{path} holds no Megatron checkpoint of the torch_dist format ({WEIGHTS}/metadata.json): give a "
                    f"folder with {CONFIG} and {WEIGHTS}/, or a .nemo file"
                )
            files = folder_regions(path, recursive=False)
            stored, where = folder_regions(place.weights, recursive=False), place.weights
            around = hf_files or place.hf_files
            self._hf_folder = around or path / HF_FILES
            self.hf_files: Mapping[str, Region] = {} if around is None else small_files(around)
        else:
            files = tar_regions(path)
            folder = _weights_folder(path, files)
            stored, where = _inside(files, folder), path / folder
            self._hf_folder = hf_files or path / HF_FILES
            self.hf_files = small_files(hf_files) if hf_files else _inside(files, HF_FILES)
        self.kind = ".nemo file" if not path.is_dir() else "NeMo folder" if CONFIG in files else "Megatron folder"
        self._reader = TorchDistReader(stored, where)
        self._prefix = self._find_prefix()
        self.shape = self._read_shape(files)
        conversion = read_json_object(files[CONVERSION].read(), path / CONVERSION) if CONVERSION in files else {}
        self.redundant_output = self.shape.tied and conversion.get("redundant_output") is True
        self.dtype = self._check_tensors(dtype)

    def rows(self, entry: Entry) -> Rows:
        megatron, layer = entry.tensor
        key, index = self._key(megatron, layer)
        rows = self._reader.rows(key, index)
        if megatron in (EMBEDDING, OUTPUT):
            rows = take(rows, 0, self.shape.vocab)  # what NeMo padded stays behind
        return cast(rows, self._reader.tensors[key].dtype, self.dtype)

    def _find_prefix(self) -> str:
        for prefix in PREFIXES:
            if prefix + EMBEDDING in self._reader.tensors:
                return prefix
        raise UserError(f"{self.path} has no tensor {EMBEDDING}: give a GPT model's checkpoint")

    def _key(self, megatron: str, layer: int | None) -> tuple[str, int | None]:
        """Where a tensor is stored: layers are stacked, or each has a key of its own."""
        if layer is None:
            return self._prefix + megatron, None
        stacked = f"{self._prefix}decoder.layers.{megatron}"
        if stacked in self._reader.tensors:
            return stacked, layer
        return f"{self._prefix}decoder.layers.{layer}.{megatron}", None

    def _read_shape(self, files: Mapping[str, Region]) -> ModelShape:
        rows = self._reader.tensors[self._prefix + EMBEDDING].shape[0]
        nemo: dict[str, Any] | None = None
        if CONFIG in files:
            nemo = read_yaml_mapping(files[CONFIG].read(), str(self.path / CONFIG))
            nemo = with_nemo_defaults(self.path / CONFIG, nemo)
        if "config.json" in self.hf_files:
            shown = self._hf_folder / "config.json"
            shape = shape_from_config_json(shown, read_json_object(self.hf_files["config.json"].read(), shown))
            if nemo is not None:
                check_same_figures(self.path / CONFIG, nemo, shape)
                check_keys(self.path / CONFIG, nemo, shape)
            return shape
        if nemo is None:
            raise UserError(f"{self.path} has neither {CONFIG} nor {HF_FILES}/config.json: give --hf-files DIR")
        shape = shape_from_nemo(self.path / CONFIG, nemo, rows)
        check_keys(self.path / CONFIG, nemo, shape)
        return shape

    def _check_tensors(self, dtype: Dtype | None) -> Dtype:
        """The type of the tensors. Raises UserError if one is missing, is not known, or has a wrong shape or type."""
        known: set[str] = set()
        missing: list[str] = []
        for entry in entries(self.shape):
            key, index = self._key(*entry.tensor)
            if key not in self._reader.tensors:
                missing.append(key)
                continue
            known.add(key)
            wanted = full_shape(entry.rule, self.shape)
            stored = self._reader.tensors[key].shape
            padded = entry.rule.megatron in (EMBEDDING, OUTPUT) and stored[0] >= wanted[0] and stored[1:] == wanted[1:]
            if stored != (wanted if index is None else (self.shape.layers, *wanted)) and not padded:
                raise UserError(
                    f"{self.path}: {key} is {stored}, but the configuration gives {wanted} in {self.shape.layers} "
                    "layers: weights and configuration do not belong together"
                )
        if missing:
            raise UserError(f"{self.path} lacks {_some(missing)}: give a complete checkpoint of this model")
        extra = sorted(set(self._weights_of_the_model()) - known)
        if extra:
            raise UserError(f"{self.path} has {_some(extra)}, which this model does not: give its own checkpoint")
        types = {self._reader.tensors[key].dtype: key for key in sorted(known)}
        if dtype is None and len(types) > 1:
            named = ", ".join(f"{key} is {one}" for one, key in types.items())
            raise UserError(f"{self.path} has mixed types ({named}): choose one with --dtype")
        return dtype or next(iter(types))

    def _weights_of_the_model(self) -> list[str]:
        """The keys of weights: a reward head or MTP layers are some too. A training checkpoint also has keys of its
        optimizer and scheduler."""
        return [
            key
            for key in self._reader.tensors
            if key.startswith(self._prefix)
            and not _NO_WEIGHTS.match(key)
            and "_extra_state" not in key
            and not key.endswith("inv_freq")  # computed from rotary_base
        ]


def _weights_folder(path: Path, files: Mapping[str, Region]) -> str:
    for folder in (WEIGHTS, RELEASE, "weights", ""):
        if f"{folder}/metadata.json".lstrip("/") in files:
            return folder
    raise UserError(
        f"{path} holds no Megatron checkpoint of the torch_dist format ({WEIGHTS}/metadata.json): give a folder with "
        f"{CONFIG} and {WEIGHTS}/, or a .nemo file"
    )


def _inside(files: Mapping[str, Region], folder: str) -> dict[str, Region]:
    prefix = f"{folder}/" if folder else ""
    return {name.removeprefix(prefix): region for name, region in files.items() if name.startswith(prefix)}


def _some(names: list[str], limit: int = 10) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
