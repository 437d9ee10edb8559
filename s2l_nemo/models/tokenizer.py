"""Tokenizers of models, from the folder of their Hugging Face files and without running code from it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_nemo.errors import UserError
from s2l_nemo.models.files import read_json_object
from s2l_nemo.models.light_import import import_transformers
from s2l_nemo.models.sentencepiece import CLASSES, tokenizer_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def load_tokenizer(folder: Path, path: str | None = None) -> PreTrainedTokenizerFast:
    """The fast tokenizer of the files in `folder`. `path` is the model that they belong to, if it is elsewhere.

    If its class is remote code (InternLM2.5's), it is read from tokenizer.json, which is the same tokenizer as data, or
    from tokenizer.model. Raises UserError if the folder is missing, or holds no tokenizer with a fast version.
    """
    import_transformers()
    from transformers import AutoTokenizer

    path = path or str(folder)
    if not folder.exists():
        raise UserError(f"no checkpoint folder at {path}: download or create it first, or correct the path")
    has_json = (folder / "tokenizer.json").is_file()
    if not has_json and not (folder / "tokenizer_config.json").is_file():
        raise UserError(f"{path} is no Hugging Face checkpoint: it holds no tokenizer_config.json")
    kwargs: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        if _is_remote_code(folder):
            return _load_as_data(folder, path, kwargs)
        tokenizer = AutoTokenizer.from_pretrained(str(folder), use_fast=True, **kwargs)
    except UserError:
        raise
    except Exception as error:  # a damaged file fails anywhere in tokenizers and transformers, in many ways
        raise UserError(f"cannot load the tokenizer of {path}: {type(error).__name__}: {_first_line(error)}") from error
    if not tokenizer.is_fast:
        raise UserError(f"{path} has no fast tokenizer: add its tokenizer.json")
    return tokenizer


def stop_token_ids(folder: Path, tokenizer: PreTrainedTokenizerFast, path: str | None = None) -> tuple[int, ...]:
    """Ids that end an answer, ascending: the tokenizer's EOS and those of generation_config.json.

    `path` is the model that the files belong to, if it is elsewhere. Raises UserError if there is no such id.
    """
    ids = set() if tokenizer.eos_token_id is None else {tokenizer.eos_token_id}
    eos = _read_if_there(folder / "generation_config.json").get("eos_token_id")
    more = [] if eos is None else eos if isinstance(eos, list) else [eos]
    if not all(type(one) is int and one >= 0 for one in more):
        raise UserError(f"{path or folder}: eos_token_id={eos!r:.80} of generation_config.json is no id: correct it")
    ids.update(more)
    if not ids:
        raise UserError(f"{path or folder} names no end-of-sequence token: set eos_token in its tokenizer_config.json")
    return tuple(sorted(ids))


def _is_remote_code(folder: Path) -> bool:
    """Whether the tokenizer's class is a file of the folder, or a class that transformers does not have."""
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    config = _read_if_there(folder / "tokenizer_config.json")
    name = config.get("tokenizer_class")
    if name is None:  # then transformers would look for it in the model's configuration
        return "auto_map" in config or "auto_map" in _read_if_there(folder / "config.json")
    return "auto_map" in config or not any(tokenizer_class_from_name(f"{name}{suffix}") for suffix in ("", "Fast"))


def _load_as_data(folder: Path, path: str, kwargs: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """The tokenizer of a class that is remote code. Without a tokenizer.json it is loaded from a folder that has one.

    Raises UserError if there is neither a tokenizer.json nor a tokenizer.model that gives the same ids.
    """
    from transformers import PreTrainedTokenizerFast

    with _errors_only(), tempfile.TemporaryDirectory(prefix="s2l_nemo_") as made:  # it warns of the other class
        if not (folder / "tokenizer.json").is_file():
            content = sentencepiece_json(
                path, {file.name: file.read_bytes for file in folder.iterdir() if file.is_file()}
            )
            if content is None:
                raise UserError(
                    f"{path}: its tokenizer would need remote code, which is never run: add its tokenizer.json "
                    "(save_pretrained of the fast tokenizer writes it)"
                )
            Path(made, "tokenizer.json").write_text(content, encoding="utf-8")
            for file in folder.iterdir():
                if file.suffix in (".json", ".jinja"):
                    Path(made, file.name).symlink_to(file.resolve())
            folder = Path(made)
        return PreTrainedTokenizerFast.from_pretrained(str(folder), **kwargs)


def sentencepiece_json(path: str, files: Mapping[str, Callable[[], bytes]]) -> str | None:
    """The tokenizer.json of a model whose tokenizer is a tokenizer.model that remote code reads; None: it is not.

    `files` reads the files of its folder by name, `path` names it in messages. Raises UserError if a tokenizer.json
    could not give the same ids.
    """
    if not {"tokenizer.model", "tokenizer_config.json"} <= files.keys() or "tokenizer.json" in files:
        return None
    config = read_json_object(files["tokenizer_config.json"](), Path(path, "tokenizer_config.json"))
    name = config.get("tokenizer_class")
    if not isinstance(name, str) or name not in CLASSES:
        return None
    return tokenizer_json(Path(path, "tokenizer.model"), files["tokenizer.model"](), config)


@contextmanager
def _errors_only() -> Iterator[None]:
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _read_if_there(path: Path) -> dict[str, Any]:
    """The JSON object of a file, empty if there is none."""
    return read_json_object(path.read_bytes(), path) if path.is_file() else {}


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
