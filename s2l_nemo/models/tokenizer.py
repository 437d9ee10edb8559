"""Tokenizers of models, and the check that explorer and learner share one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_nemo.models.files import hf_files_folder
from s2l_nemo.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def load_tokenizer(path: str | Path, key: str = "model.path") -> PreTrainedTokenizerFast:
    """The fast tokenizer of a model, a Hugging Face folder or a NeMo checkpoint; runs no code from it.

    One whose class is remote code (InternLM2.5's) is read from tokenizer.json, which is the same tokenizer as data.
    `key` is the configuration key that named `path`. Raises UserError where the model is missing, holds no tokenizer,
    or holds one without a fast version.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if not Path(path).exists():
        raise UserError(f"no checkpoint folder at {path}: download or create it first, or correct the path")
    folder = hf_files_folder(key, str(path))
    has_json = (folder / "tokenizer.json").is_file()
    if not has_json and not (folder / "tokenizer_config.json").is_file():
        raise UserError(f"{path} is no Hugging Face checkpoint: it holds no tokenizer_config.json")
    kwargs: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    is_remote = _is_remote_code(folder)
    if is_remote and not has_json:
        raise UserError(
            f"{path}: its tokenizer would need remote code, which is never run: add its tokenizer.json "
            "(save_pretrained of the fast tokenizer writes it)"
        )
    try:
        if is_remote:
            with _errors_only():  # it warns that the class is another one
                return PreTrainedTokenizerFast.from_pretrained(str(folder), **kwargs)
        tokenizer = AutoTokenizer.from_pretrained(str(folder), use_fast=True, **kwargs)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(f"cannot load the tokenizer of {path}: {_first_line(error)}") from error
    if not tokenizer.is_fast:
        raise UserError(f"{path} has no fast tokenizer: add its tokenizer.json")
    return tokenizer


def _is_remote_code(folder: Path) -> bool:
    """Whether the tokenizer's class is a file of the folder, or otherwise none that transformers has."""
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    config = _read_json(folder / "tokenizer_config.json")
    name = config.get("tokenizer_class")
    if name is None:  # then transformers would look for it in the model's configuration
        return "auto_map" in config or "auto_map" in _read_json(folder / "config.json")
    return "auto_map" in config or not any(tokenizer_class_from_name(name + suffix) for suffix in ("", "Fast"))


@contextmanager
def _errors_only() -> Iterator[None]:
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def stop_token_ids(path: str | Path, tokenizer: PreTrainedTokenizerFast, key: str = "model.path") -> tuple[int, ...]:
    """Ids that end an answer, ascending: the tokenizer's EOS and those of generation_config.json.

    Raises UserError where there is none.
    """
    ids = set() if tokenizer.eos_token_id is None else {tokenizer.eos_token_id}
    eos = _read_json(hf_files_folder(key, str(path)) / "generation_config.json").get("eos_token_id")
    ids.update([] if eos is None else [eos] if isinstance(eos, int) else eos)
    if not ids:
        raise UserError(f"{path} names no end-of-sequence token: set eos_token in its tokenizer_config.json")
    return tuple(sorted(ids))


def check_same_tokenizer(learner_path: str | Path, explorer_path: str | Path) -> None:
    """Raises UserError, naming both folders and the first difference, where explorer and learner cannot share tokens.

    They share tokens when vocabulary, special tokens, EOS ids and the models' `vocab_size` are equal.
    """
    learner, explorer = _describe(learner_path, "model.path"), _describe(explorer_path, "explorer.path")
    for what, expected in learner.items():
        difference = _first_difference(expected, explorer[what])
        if difference:
            raise UserError(
                f"learner {learner_path} and explorer {explorer_path} differ in {what}: {difference}; choose two "
                "models of one family"
            )


def _describe(path: str | Path, key: str) -> dict[str, Any]:
    tokenizer = load_tokenizer(path, key)
    config = hf_files_folder(key, str(path)) / "config.json"
    if not config.is_file():
        raise UserError(f"{path} is no Hugging Face checkpoint: config.json is missing")
    return {
        "vocabulary": tokenizer.get_vocab(),
        "special tokens": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "EOS ids": stop_token_ids(path, tokenizer, key),
        "vocab_size": _read_json(config).get("vocab_size"),
    }


def _first_difference(learner: Any, explorer: Any) -> str | None:
    if learner == explorer:
        return None
    if isinstance(learner, Mapping):
        key = min(key for key in {*learner, *explorer} if learner.get(key) != explorer.get(key))
        return f"{key!r} is {learner.get(key, 'absent')!r} against {explorer.get(key, 'absent')!r}"
    return f"{learner} against {explorer}"


def _read_json(path: Path) -> dict[str, Any]:
    """Empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not valid JSON: {_first_line(error)}") from error
    return content


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
