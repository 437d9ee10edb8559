"""The Hugging Face folder that an engine of another library loads, read without the engine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from s2l_nemo.engines.protocol import Bucket
from s2l_nemo.errors import UserError
from s2l_nemo.models.files import read_json_object
from s2l_nemo.models.formats.safetensors_folder import SafetensorsFolder


class HfFolder:
    """config.json and safetensors of one model, read one tensor at a time; a tied head counts as absent."""

    def __init__(self, path: Path) -> None:
        """Reads the headers. Raises UserError if there is no model of this format."""
        self._files = _tensor_files(path)
        self.config = read_json_object((path / "config.json").read_bytes(), path / "config.json")
        if self.config.get("tie_word_embeddings"):
            self._files.pop("lm_head.weight", None)
        with ExitStack() as stack:
            opened = self._open(stack)
            self.shapes: dict[str, tuple[int, ...]] = {
                name: tuple(opened[file].get_slice(name).get_shape()) for name, file in self._files.items()
            }

    def weight_hash(self, dtype: torch.dtype) -> str:
        """SHA-256 over all tensors in name order, each as `dtype`; equal to `EmbeddedEngine.weight_hash`."""
        digest = hashlib.sha256()
        with ExitStack() as stack:
            opened = self._open(stack)
            for name, file in sorted(self._files.items()):
                tensor = opened[file].get_tensor(name).to(dtype)
                digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
                digest.update(tensor.view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def _open(self, stack: ExitStack) -> dict[Path, Any]:
        return {file: stack.enter_context(safe_open(file, "pt")) for file in set(self._files.values())}


def _tensor_files(path: Path) -> dict[str, Path]:
    """Name and file of every tensor."""
    index = path / "model.safetensors.index.json"
    single = path / "model.safetensors"
    if not (path / "config.json").is_file() or not (index.is_file() or single.is_file()):
        raise UserError(
            f"engines of other libraries read Hugging Face folders of safetensors, which {path} is not:"
            " convert it with tools/convert_nemo_to_hf.py, or set engine.kind=server"
        )
    return {name: tensor.file for name, tensor in SafetensorsFolder(path).tensors.items()}


class WeightUpdate:
    """What has come of one weight update: every tensor of the folder must come exactly once, in its shape."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], version: int) -> None:
        self._shapes = shapes
        self._missing = dict(shapes)
        self._what = f"weight version {version}"

    def take(self, bucket: Bucket) -> None:
        """Counts a bucket's tensors. Raises ValueError for one that is unknown, repeated or of another shape."""
        for name, tensor in bucket.items():
            if name not in self._shapes:
                raise ValueError(f"{self._what}: the model has no tensor {name} (or it is tied)")
            if name not in self._missing:
                raise ValueError(f"{self._what}: tensor {name} came twice")
            if self._missing.pop(name) != tuple(tensor.shape):
                raise ValueError(
                    f"{self._what}: tensor {name} has shape {tuple(tensor.shape)}, the model's has {self._shapes[name]}"
                )

    def check_complete(self) -> None:
        """Raises ValueError if a tensor has not come."""
        if self._missing:
            raise ValueError(f"{self._what}: {len(self._missing)} tensors are missing, first {min(self._missing)}")
