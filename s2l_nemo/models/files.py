"""The small Hugging Face files of a model, and where they are.

They lie in its folder, in the `huggingface/` of a NeMo folder, or there in a `.nemo` tar.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from s2l_nemo.errors import UserError
from s2l_nemo.models.formats.regions import Region, folder_regions, tar_regions

HF_FILES = "huggingface"  # folder of config.json, tokenizer, ... inside a NeMo or Megatron checkpoint
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".ckpt", ".gguf",
            ".h5", ".msgpack", ".onnx")  # fmt: skip
TEMPLATES = "additional_chat_templates"  # of transformers
_LFS, _LFS_POINTER = b"version https://git-lfs", 1024  # how a pointer begins, and bytes that none reaches
_AT_ONCE = 2**22  # bytes that are copied at a time
_LARGEST = 256 * 2**20  # bytes; a tokenizer has some ten million


def hf_files_folder(key: str, path: str) -> Path:
    """A folder with config.json and tokenizer of the model at `path`. `key` is the configuration key that named it.

    The files of a `.nemo` are unpacked into a temporary folder, which this process removes when it ends. Raises
    UserError if a NeMo checkpoint has no such files.
    """
    model = Path(path)
    if model.suffix == ".nemo" and model.is_file():
        folder = _unpack(key, model)
    elif (model / HF_FILES).is_dir() and not (model / "config.json").is_file():
        folder = model / HF_FILES
    else:
        folder = model
    is_nemo = model.is_file() or any((model / name).is_file() for name in ("model_config.yaml", "metadata.json"))
    if is_nemo and not (folder / "config.json").is_file():
        raise UserError(
            f"{key}={path} has no {HF_FILES}/config.json and so no tokenizer: convert it with "
            "tools/convert_nemo_to_hf.py --hf-files DIR and give the result"
        )
    return folder


def small_files(folder: Path) -> dict[str, Region]:
    """The files that go along with the weights: all of the folder itself that hold none and are not hidden, and its
    further chat templates.

    Code files of a model come along as text. Nothing of this project runs them.
    """
    files = folder_regions(folder, recursive=False)
    if (folder / TEMPLATES).is_dir():
        templates = folder_regions(folder / TEMPLATES, recursive=False)
        files |= {f"{TEMPLATES}/{name}": region for name, region in templates.items() if name.endswith(".jinja")}
    kept = {name: region for name, region in files.items() if _goes_along(name) and region.size < _LARGEST}
    for region in kept.values():
        if region.size < _LFS_POINTER and region.part(0, min(region.size, len(_LFS))).read() == _LFS:
            raise UserError(f"{region.path} is a Git LFS pointer, not the file: run `git lfs pull` in its folder")
    return kept


def left_out(folder: Path) -> list[str]:
    """Names of files and folders beside the weights of a Hugging Face folder that do not go along with them."""
    large = [name for name, file in folder_regions(folder, recursive=False).items() if file.size >= _LARGEST]
    folders = [f"{path.name}/" for path in folder.iterdir() if path.is_dir() and path.name != TEMPLATES]
    return sorted(name for name in large + folders if _goes_along(name))


def _goes_along(name: str) -> bool:
    return not name.endswith(_WEIGHTS) and not name.startswith(".") and name != "SHA256SUMS"


def read_json_object(content: bytes, shown: Path) -> dict[str, Any]:
    """The JSON object that a file of a model holds. `shown` names the file as its user knows it.

    Raises UserError if it is anything else.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        raise UserError(f"{shown} is not JSON: fetch the model again") from None
    if not isinstance(value, dict):
        raise UserError(f"{shown} is not a JSON object: fetch the model again")
    return value


def _unpack(key: str, path: Path) -> Path:
    """Takes only members that lie directly under `huggingface/`, as plain files of their base names."""
    try:
        members = tar_regions(path)
    except UserError as error:
        raise UserError(f"{key}={error}") from None
    folder = Path(tempfile.mkdtemp(prefix="s2l_nemo_"))
    owner = os.getpid()
    atexit.register(lambda: shutil.rmtree(folder, ignore_errors=True) if os.getpid() == owner else None)
    for name, region in members.items():
        if Path(name).parent == Path(HF_FILES):
            with (folder / Path(name).name).open("wb") as file:
                for start in range(0, region.size, _AT_ONCE):
                    file.write(region.part(start, min(_AT_ONCE, region.size - start)).read())
    return folder
