"""LoRA adapters as peft writes them, merged into weights while these are read.

W' = W + s B A with A [r, in], B [out, r] and s = lora_alpha / r, or lora_alpha / sqrt(r) with rsLoRA (arXiv 2106.09685,
2312.03732). The sum is taken in float32 and rounded once. peft rounds B A first, so a bf16 weight may differ from its
merge in the last bit.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2l_nemo.errors import UserError
from s2l_nemo.models.files import read_json_object
from s2l_nemo.models.formats.dtypes import Dtype
from s2l_nemo.models.formats.regions import Region
from s2l_nemo.models.formats.rows import Part, Rows
from s2l_nemo.models.formats.safetensors_folder import StoredTensor, read_header

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_NAME = re.compile(r"(?P<module>.+)\.lora_(?P<matrix>[AB])\.weight")
# Keys of adapter_config.json that do not change what is merged. Others must have no value.
_HARMLESS = {
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "bias", "use_rslora", "init_lora_weights",
    "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "megatron_core", "loftq_config",
    "eva_config", "lora_ga_config", "runtime_config", "ensure_weight_tying", "qalora_group_size",
}  # fmt: skip
_LARGEST = 1e30  # of r and lora_alpha
_PLAIN_INITS = (True, False, None, "gaussian", "orthogonal", "eva")  # others change the base weights, too


@dataclass(frozen=True)
class _Matrix:
    stored: StoredTensor
    offset: int

    def rows(self, start: int, stop: int) -> Any:
        """Rows as a float32 tensor [stop - start, columns]."""
        import torch  # slow to import

        row_bytes = self.stored.shape[1] * self.stored.dtype.itemsize
        data = torch.empty((stop - start) * row_bytes, dtype=torch.uint8)
        Region(self.stored.file, self.offset + start * row_bytes, len(data)).read_into(0, data.numpy().data)
        return data.view(getattr(torch, self.stored.dtype.name)).view(stop - start, -1).float()


@dataclass(frozen=True)
class MergedRows:
    """Rows of W', computed as they are read. See `rows.Part`."""

    stored: Part
    dtype: Dtype  # of `stored`
    wanted: Dtype
    a: _Matrix
    b: _Matrix
    scale: float
    first: int = 0  # row of B that belongs to the first row of `stored`

    @property
    def row_bytes(self) -> int:
        return self.stored.row_bytes // self.dtype.itemsize * self.wanted.itemsize

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, rows: slice, /) -> MergedRows:
        start = rows.indices(len(self))[0]
        part = self.stored[rows]
        return MergedRows(part, self.dtype, self.wanted, self.a, self.b, self.scale, self.first + start)

    def read_into(self, start: int, buffer: memoryview) -> None:
        import torch  # slow to import

        first, last = start // self.row_bytes, -(-(start + len(buffer)) // self.row_bytes)
        data = torch.empty((last - first) * self.stored.row_bytes, dtype=torch.uint8)
        self.stored.read_into(first * self.stored.row_bytes, data.numpy().data)
        weight = data.view(getattr(torch, self.dtype.name)).view(last - first, -1).float()
        rank = self.a.stored.shape[0]
        b = self.b.rows(self.first + first, self.first + last)
        merged = torch.addmm(weight, b, self.a.rows(0, rank), alpha=self.scale).to(getattr(torch, self.wanted.name))
        skipped = start - first * self.row_bytes
        buffer[:] = merged.view(-1).view(torch.uint8).numpy().data[skipped : skipped + len(buffer)]


class LoraAdapter:
    """An adapter's matrices by the name of the weight that they change. Only headers are read."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError for a folder that is none, or of a kind that this sum does not merge."""
        self.folder = folder
        path = folder / CONFIG
        if not path.is_file():
            raise UserError(f"--merge-adapter {folder} has no {CONFIG}: give a folder that peft has saved")
        self._config = read_json_object(path.read_bytes(), path)
        _check_kind(self._config, path)
        if not (folder / WEIGHTS).is_file():
            raise UserError(f"{folder} has no {WEIGHTS}: save the adapter as safetensors; pickles are never loaded")
        self._pairs = _pairs(folder / WEIGHTS)
        self._scales = {name: self._scale(name, a.stored.shape[0]) for name, (a, _) in self._pairs.items()}

    @property
    def base(self) -> str:
        """The model that it was made for, as it says, or an empty text."""
        stated = self._config.get("base_model_name_or_path")
        return stated if isinstance(stated, str) else ""

    def check(self, weights: Mapping[str, StoredTensor]) -> None:
        """Raises UserError if it changes a weight that these do not have, or one of another shape."""
        for name, (a, b) in self._pairs.items():
            shape = (b.stored.shape[0], a.stored.shape[1])
            if name not in weights:
                raise UserError(
                    f"{self.folder} changes {name}, which the model does not have: it is an adapter of another model "
                    f"({self.base or 'it does not say which'})"
                )
            if weights[name].shape != shape:
                own = list(weights[name].shape)
                raise UserError(
                    f"{self.folder} changes {name} of shape {list(shape)}, the model's has {own}: it is an "
                    f"adapter of another model ({self.base or 'it does not say which'})"
                )

    def merged(self, name: str, stored: Rows, dtype: Dtype, wanted: Dtype) -> Rows | None:
        """The changed rows of a weight, or None if the adapter leaves it alone."""
        if name not in self._pairs:
            return None
        a, b = self._pairs[name]
        (part,) = stored  # of one file
        return (MergedRows(part, dtype, wanted, a, b, self._scales[name]),)

    def _scale(self, name: str, rank: int) -> float:
        module = name.removesuffix(".weight")
        alpha = _by_pattern(self._config, "alpha_pattern", module, self._config.get("lora_alpha"), self.folder)
        stated = _by_pattern(self._config, "rank_pattern", module, self._config.get("r"), self.folder)
        if stated != rank:
            raise UserError(
                f"{self.folder}: {name} has rank {rank}, and {CONFIG} says {stated}: give the config that belongs to "
                "these weights"
            )
        return alpha / math.sqrt(rank) if self._config.get("use_rslora") else alpha / rank


def _check_kind(config: Mapping[str, Any], path: Path) -> None:
    if config.get("peft_type") != "LORA":
        raise UserError(f"{path}: peft_type is {json.dumps(config.get('peft_type'))}: only LORA can be merged here")
    strange = sorted(key for key, value in config.items() if key not in _HARMLESS and value)
    if strange:
        raise UserError(
            f"{path} has {strange[0]}={json.dumps(config[strange[0]])[:100]}, which is not merged here: merge it with "
            "peft's merge_and_unload"
        )
    if config.get("bias", "none") != "none":
        raise UserError(f"{path} has bias={json.dumps(config['bias'])[:100]}, and the models here have no such biases")
    if config.get("init_lora_weights") not in _PLAIN_INITS:
        raise UserError(
            f"{path} has init_lora_weights={json.dumps(config['init_lora_weights'])[:100]}, which has changed the base "
            "weights: convert the adapter to plain LoRA with peft"
        )


def _pairs(path: Path) -> dict[str, tuple[_Matrix, _Matrix]]:
    """A and B by the name of their weight."""
    found: dict[str, dict[str, _Matrix]] = {}
    for name, (tensor, offset) in read_header(path).items():
        match = _NAME.fullmatch(name.removeprefix(_PREFIX))
        if match is None or len(tensor.shape) != 2:
            raise UserError(f"{path}: {name} {list(tensor.shape)} is no matrix of LoRA: merge it with peft")
        found.setdefault(match["module"] + ".weight", {})[match["matrix"]] = _Matrix(tensor, offset)
    pairs = {}
    for name, matrices in found.items():
        if len(matrices) < 2:
            raise UserError(f"{path} has only lora_{next(iter(matrices))} of {name}: save the adapter again")
        a, b = matrices["A"], matrices["B"]
        if a.stored.shape[0] != b.stored.shape[1] or not a.stored.shape[0]:
            raise UserError(
                f"{path}: lora_A {list(a.stored.shape)} and lora_B {list(b.stored.shape)} of {name} do not fit: save "
                "the adapter again"
            )
        pairs[name] = (a, b)
    if not pairs:
        raise UserError(f"{path} holds no matrix: save the adapter again")
    return pairs


def _by_pattern(config: Mapping[str, Any], key: str, module: str, default: Any, folder: Path) -> float:
    """A module's own rank or alpha: the first pattern that is its name or the end of it, as in peft."""
    value = default
    patterns = config.get(key) or {}
    if not isinstance(patterns, dict) or not all(re.fullmatch(r"[\w.]+", pattern) for pattern in patterns):
        raise UserError(f"{folder / CONFIG}: {key} is not a map of plain module names: merge it with peft")
    for pattern, own in patterns.items():
        if module == pattern or module.endswith(f".{pattern}"):
            value = own
            break
    # the sum is taken in float32, which ends at 3e38
    if not isinstance(value, int | float) or isinstance(value, bool) or not -_LARGEST <= value <= _LARGEST:
        name = "lora_alpha" if key == "alpha_pattern" else "r"
        raise UserError(f"{folder / CONFIG}: {name} of {module} is {json.dumps(value)[:100]}, not a number")
    return float(value)
