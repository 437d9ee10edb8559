"""The small Hugging Face files of a model, and where they are.

They lie in its folder, in the `huggingface/` of a NeMo folder, or there in a `.nemo` tar.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from s2l_nemo.errors import UserError
from s2l_nemo.models.formats.regions import Region, folder_regions

HF_FILES = "huggingface"  # folder of config.json, tokenizer, ... inside a NeMo or Megatron checkpoint
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".ckpt", ".gguf",
            ".h5", ".msgpack", ".onnx")  # fmt: skip
_LARGEST = 256 * 2**20  # bytes; a tokenizer has some ten million


def hf_files_folder(key: str, path: str) -> Path:
    """A folder with config.json and tokenizer of the model at `path`. `key` is the configuration key that named it.

    The files of a `.nemo` are unpacked into a temporary folder, which this process removes when it ends. Raises
    UserError if a NeMo checkpoint has no such files.
    """
    model = Path(path)
    if model.suffix == ".nemo" and model.is_file():
        folder = _unpack(key, model)
    elif (model / HF_FILES).is_dir():
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
    """The files that go along with the weights: all of the folder itself that hold none and are not hidden.

    Code files of a model come along as text. Nothing of this project runs them.
    """
    return {
        name: region
        for name, region in folder_regions(folder, recursive=False).items()
        if not name.endswith(_WEIGHTS) and not name.startswith(".") and name != "SHA256SUMS" and region.size < _LARGEST
    }


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
    folder = Path(tempfile.mkdtemp(prefix="s2l_nemo_"))
    owner = os.getpid()
    atexit.register(lambda: shutil.rmtree(folder, ignore_errors=True) if os.getpid() == owner else None)
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if member.isreg() and Path(name).parent == Path(HF_FILES):
                    source = archive.extractfile(member)
                    assert source is not None  # it is a regular member
                    with source, (folder / Path(name).name).open("wb") as file:
                        shutil.copyfileobj(source, file)
    except tarfile.TarError as error:
        raise UserError(f"{key}={path} is not an uncompressed tar ({error}): unpack it and give the folder") from None
    return folder
