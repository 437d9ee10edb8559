"""Tokenizers of Hugging Face folders, and the check that explorer and learner share one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_nemo.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a local Hugging Face folder; runs no code from the folder.

    Raises UserError where the folder is missing, holds no tokenizer, or holds one without a fast version.
    """
    from transformers import AutoTokenizer

    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"no checkpoint folder at {folder}: download or create it first, or correct the path")
    if not any((folder / name).is_file() for name in ("tokenizer_config.json", "tokenizer.json")):
        raise UserError(f"{folder} is no Hugging Face checkpoint: it holds no tokenizer_config.json")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), use_fast=True, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(f"cannot load the tokenizer of {folder}: {_first_line(error)}") from error
    if not tokenizer.is_fast:
        raise UserError(f"{folder} has no fast tokenizer: add its tokenizer.json")
    return tokenizer


def stop_token_ids(path: str | Path, tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    """Ids that end an answer, ascending: the tokenizer's EOS and those of generation_config.json.

    Raises UserError where there is none.
    """
    ids = set() if tokenizer.eos_token_id is None else {tokenizer.eos_token_id}
    generation = Path(path) / "generation_config.json"
    if generation.is_file():
        eos = _read_json(generation).get("eos_token_id")
        ids.update([] if eos is None else [eos] if isinstance(eos, int) else eos)
    if not ids:
        raise UserError(f"{path} names no end-of-sequence token: set eos_token in its tokenizer_config.json")
    return tuple(sorted(ids))


def check_same_tokenizer(learner_path: str | Path, explorer_path: str | Path) -> None:
    """Raises UserError, naming both folders and the first difference, where explorer and learner cannot share tokens.

    They share tokens when vocabulary, special tokens, EOS ids and the models' `vocab_size` are equal.
    """
    learner, explorer = _describe(learner_path), _describe(explorer_path)
    for what, expected in learner.items():
        difference = _first_difference(expected, explorer[what])
        if difference:
            raise UserError(
                f"learner {learner_path} and explorer {explorer_path} differ in {what}: {difference}; choose two "
                "models of one family"
            )


def _describe(path: str | Path) -> dict[str, Any]:
    tokenizer = load_tokenizer(path)
    config = Path(path) / "config.json"
    if not config.is_file():
        raise UserError(f"{path} is no Hugging Face checkpoint: config.json is missing")
    return {
        "vocabulary": tokenizer.get_vocab(),
        "special tokens": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "EOS ids": stop_token_ids(path, tokenizer),
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
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not valid JSON: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
