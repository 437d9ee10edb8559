"""The small Hugging Face files of a model: in its folder, in a NeMo folder's `huggingface/`, or in a `.nemo` tar."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tarfile
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from s2l_nemo.models.shape import ModelShape, shape_from_config_json
from s2l_nemo.errors import UserError

HF_FILES = "huggingface"  # folder of config.json, tokenizer, ... inside a NeMo or Megatron checkpoint


@lru_cache
def hf_files_folder(key: str, path: str) -> Path:
    """A folder with config.json and tokenizer of the model at `path`; `key` is the configuration key that named it.

    A `.nemo` file's are unpacked into a temporary folder that this process removes when it ends. Raises UserError where
    there is no model, or a NeMo checkpoint without these files.
    """
    model = Path(path)
    if model.suffix == ".nemo" and model.is_file():
        folder = _unpack(key, model)
    elif (model / HF_FILES).is_dir():
        folder = model / HF_FILES
    else:
        folder = model
    is_nemo = model.is_file() or (model / "model_config.yaml").is_file()
    if is_nemo and not (folder / "config.json").is_file():
        raise UserError(
            f"{key}={path} has no {HF_FILES}/config.json and so no tokenizer: convert it with "
            "tools/convert_nemo_to_hf.py --hf-files DIR and give the result"
        )
    return folder


def read_config_json(key: str, path: str) -> dict[str, Any]:
    """The Hugging Face config.json of the model at `path`; `key` is the configuration key that named it.

    Raises UserError where there is no model, or no config.json of it that is a JSON object.
    """
    if not Path(path).exists():
        raise UserError(
            f"{key}={path} is not a folder: run tools/make_tiny_family.py for the tiny family, "
            "or give a Hugging Face folder, a NeMo folder or a .nemo file"
        )
    file = hf_files_folder(key, path) / "config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{key}={path} has no config.json: give the folder of a Hugging Face model") from None
    except (ValueError, RecursionError):
        raise UserError(f"{_shown(key, path)} is not JSON: fetch the model again") from None
    if not isinstance(content, dict):
        raise UserError(f"{_shown(key, path)} is not a JSON object: fetch the model again")
    return content


def read_shape(key: str, path: str) -> ModelShape:
    """The figures of the model at `path`. Raises UserError where they cannot be read or are not supported."""
    return shape_from_config_json(_shown(key, path), read_config_json(key, path))


def _shown(key: str, path: str) -> Path:
    """The config.json as its user knows it, and not as it is unpacked."""
    inside = hf_files_folder(key, path) != Path(path)
    return Path(path, HF_FILES, "config.json") if inside else Path(path, "config.json")


def _unpack(key: str, path: Path) -> Path:
    """Only members directly under `huggingface/`, as plain files of their base names."""
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
