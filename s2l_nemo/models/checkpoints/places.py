"""Where in a folder the weights lie, and what a folder is that holds none that can be read.

A folder is known by what is in it, not by one file name: a Hugging Face model may have a `metadata.json` beside it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2l_nemo.errors import UserError
from s2l_nemo.models.checkpoints.adapter import CONFIG as ADAPTER_CONFIG
from s2l_nemo.models.files import HF_FILES

CONFIG, WEIGHTS = "model_config.yaml", "model_weights"
RELEASE = "release"  # Megatron-LM's name for weights without an optimizer
TRACKER = "latest_checkpointed_iteration.txt"  # of Megatron-LM, Megatron-Bridge, slime and verl
_ITERATION = re.compile(r"(?:iter_\d{7,}|global_steps?_\d+)")


@dataclass(frozen=True)
class Place:
    """The folder of a torch_dist checkpoint, and that of the Hugging Face files beside it, if there is one."""

    weights: Path
    hf_files: Path | None


def find_torch_dist(path: Path) -> Place | None:
    """The torch_dist checkpoint that a folder is or holds: the one that its tracker names, if it has several.

    None if there is none. Raises UserError if the tracker names one that is not there, or nothing says which it is.
    """
    for name in (WEIGHTS, "weights", "dist_ckpt"):
        if _is_torch_dist(path / name):
            return _place(path / name, path)
    if (path / TRACKER).is_file():
        chosen = path / _tracked(path)
        inside = find_torch_dist(chosen) or find_torch_dist(chosen / "actor")
        if inside is None:
            raise UserError(foreign(chosen) or f"{path / TRACKER} names {chosen.name}, which {_state(chosen)}")
        return Place(inside.weights, inside.hf_files or _hf_files(path))
    if _is_torch_dist(path):
        return _place(path, path, path.parent if _is_iteration(path.name) else path)
    iterations = sorted(child.name for child in _children(path) if _is_iteration(child.name) and _is_torch_dist(child))
    if len(iterations) > 1:
        raise UserError(f"{path} holds {', '.join(iterations[:10])} and no {TRACKER}: give the folder of one of them")
    return _place(path / iterations[0], path) if iterations else None


def is_hugging_face(path: Path) -> bool:
    """Whether a folder holds a config.json of a model and weights beside it."""
    weights = any(child.name.endswith((".safetensors", ".safetensors.index.json")) for child in _children(path))
    return weights and (path / "config.json").is_file() and not _is_torch_dist(path / WEIGHTS)


def foreign(path: Path) -> str | None:
    """One line that says what a file or folder is which cannot be read, and what to do. None if it is unknown."""
    if not path.is_dir():
        return _foreign_file(path)
    names = {child.name for child in _children(path)}
    for pattern, what in _FOREIGN:
        found = next((name for name in sorted(names) if re.fullmatch(pattern, name)), None)
        if found is not None:
            return f"{path} ({found}) is {what}"
    if ADAPTER_CONFIG in names:
        return _adapter(path)
    inner = [child for child in _children(path) if child.is_dir() and (is_hugging_face(child) or _is_nemo(child))]
    if path.name.startswith("models--"):
        inner = [child for child in _children(path / "snapshots") if child.is_dir()]
    if inner:
        listed = ", ".join(str(child) for child in inner[:5])
        return f"{path} is no checkpoint itself: give one of the folders in it ({listed})"
    return None


def check_no_adapter(path: Path) -> None:
    """Raises UserError for a folder of weights with an adapter, without which they are another model."""
    if (path / ADAPTER_CONFIG).is_file():
        raise UserError(
            f"{path} holds an adapter ({ADAPTER_CONFIG}) beside its weights, which would be lost: merge it "
            "(--merge-adapter of tools/convert_hf_to_nemo.py), or take the adapter's files out"
        )


_MEGATRON_CONVERT = "load it with Megatron-LM and save it with --ckpt-format torch_dist"
_FOREIGN = (
    (r"mp_rank_\d+(_\d+)*", f"Megatron-LM's legacy format, which is pickled: {_MEGATRON_CONVERT}"),
    (r"zero_to_fp32\.py|.*_model_states\.pt|zero_pp_rank_.*", "a DeepSpeed checkpoint: run its zero_to_fp32.py with "
     "--safe_serialization, and give the result"),
    (r"(model|optim)_world_size_\d+_rank_\d+\.pt", "verl's FSDP checkpoint: run `python -m verl.model_merger merge "
     "--backend fsdp`, and give the result"),
    (r"pytorch_model_fsdp_\d+", "an FSDP checkpoint of Accelerate: run `accelerate merge-weights`, and give the "
     "result"),
    (r".*\.distcp|\.metadata", "a torch DCP checkpoint without Megatron's metadata.json (FSDP, torchtitan): export it "
     "as a Hugging Face folder, and give that"),
    (r".*\.gguf", "a GGUF model, made for llama.cpp: give the Hugging Face model that it was made from"),
    (r"model-rank-\d+-part-\d+\.safetensors", "vLLM's sharded state, cut for one tensor parallelism: give the Hugging "
     "Face model that it was made from"),
    (r"rank\d+\.(engine|safetensors)", "a TensorRT-LLM engine or checkpoint: give the Hugging Face model that it was "
     "made from"),
    (r"consolidated.*\.(pth|safetensors)|params\.json", "in the format of Meta's or Mistral's own release: give the "
     "Hugging Face version of the model"),
    (r".*\.(h5|msgpack|onnx|npz)", "a model of another framework: give its safetensors version"),
)  # fmt: skip


def _foreign_file(path: Path) -> str | None:
    if path.name.endswith((".safetensors", ".safetensors.index.json")):
        return f"{path} is one file of a Hugging Face model: give the folder that it lies in ({path.parent})"
    if path.suffix == ".gguf":
        return f"{path} is a GGUF model, made for llama.cpp: give the Hugging Face model that it was made from"
    if path.suffix in (".pt", ".pth", ".bin", ".ckpt", ".distcp"):
        return f"{path} is a pickled file of torch, which is never loaded: give the model's folder of safetensors"
    return None


def missing(path: Path) -> str:
    """What to say of a path that does not exist. It may be the name of a model on the hub."""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) and not path.parent.exists():
        return f"{path} does not exist: if it is a name on the hub, download it first (huggingface-cli download {path})"
    return f"{path} does not exist: give a Hugging Face folder, a NeMo folder or a .nemo file"


def _adapter(path: Path) -> str:
    try:
        stated: Any = json.loads((path / ADAPTER_CONFIG).read_bytes())
        base = stated.get("base_model_name_or_path") if isinstance(stated, dict) else None
    except (ValueError, RecursionError):
        base = None
    of = f" of {base:.200}" if isinstance(base, str) else ""
    return (
        f"{path} is an adapter{of}, not a model: merge it into its base model (--merge-adapter of "
        "tools/convert_hf_to_nemo.py) and give the result"
    )


def _tracked(path: Path) -> str:
    """The folder that a tracker names: `release`, or that of an iteration."""
    with (path / TRACKER).open("rb") as file:
        text = file.read(100).decode("utf-8", "replace").strip()
    if text == RELEASE:
        return RELEASE
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise UserError(f"{path / TRACKER} says {text[:40]!r}, neither an iteration nor {RELEASE}: correct it")
    for name in (f"global_step_{int(text)}", f"global_steps_{int(text)}"):  # verl
        if (path / name).is_dir():
            return name
    return f"iter_{int(text):07d}"


def _place(weights: Path, *around: Path) -> Place:
    return Place(weights, next((found for folder in around if (found := _hf_files(folder))), None))


def _hf_files(folder: Path) -> Path | None:
    return folder / HF_FILES if (folder / HF_FILES).is_dir() else None


def _is_iteration(name: str) -> bool:
    return name == RELEASE or _ITERATION.fullmatch(name) is not None


def _is_torch_dist(folder: Path) -> bool:
    """Whether `metadata.json` is Megatron's, and not one of the many other files of this name."""
    file = folder / "metadata.json"
    if not file.is_file() or file.stat().st_size > 2**20:
        return False
    return b'"sharded_backend"' in file.read_bytes()


def _is_nemo(folder: Path) -> bool:
    return any(_is_torch_dist(place) for place in (folder, folder / WEIGHTS, folder / RELEASE))


def _children(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else []


def _state(path: Path) -> str:
    return "holds no torch_dist checkpoint: copy it again" if path.exists() else "is missing: copy it too"
