"""Opens a model of any format once. Every room takes the open model, and none reads its path again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_nemo.errors import UserError
from s2l_nemo.hub.files import fetch_config, fetch_model, fetch_small
from s2l_nemo.hub.names import Kind, hub_name
from s2l_nemo.hub.snapshots import Snapshot, open_snapshot
from s2l_nemo.models.files import HF_FILES, hf_files_folder, read_json_object
from s2l_nemo.models.hf_config import shape_from_config_json
from s2l_nemo.models.shape import ModelShape
from s2l_nemo.models.tokenizer import load_tokenizer, stop_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from s2l_nemo.models.checkpoints.checkpoint import Checkpoint


# Files of a vocabulary and its rules. Who reads them, and in which version, does not matter.
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt")
_OF_WRITERS = ("transformers_version", "_name_or_path")  # in config.json, and not of the model


@dataclass(frozen=True)
class Model:
    """A Hugging Face folder, NeMo folder or `.nemo` file whose config.json has been read and is supported.

    Weights and tokenizer are opened when they are first asked for, and kept. So a model of the hub is downloaded as far
    as it is used; `fetch` brings all of it.
    """

    key: str  # the configuration key that named it, for messages
    path: str
    config: Mapping[str, Any]  # its Hugging Face config.json
    shape: ModelShape
    hf_folder: Path  # of config.json and tokenizer; `path` itself if that is a Hugging Face folder
    snapshot: Snapshot | None = None  # of a model of the hub, whose folder in the cache is `path`

    def fetch(self) -> None:
        """Downloads what the cache lacks of a model of the hub, before several processes read it."""
        if self.snapshot is not None:
            fetch_model(self.snapshot)

    @property
    def is_hugging_face(self) -> bool:
        """Whether `path` is a folder as transformers loads it."""
        return self.hf_folder == Path(self.path)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The weights, validated from their headers. Raises UserError if something about them is wrong."""
        self.fetch()
        from s2l_nemo.models.checkpoints.open import open_checkpoint  # late: plans and --help need no numpy

        return open_checkpoint(Path(self.path))

    def fingerprint(self) -> dict[str, str]:
        """SHA-256 of its weights, sampled as in `checkpoints.fingerprint`, and of config.json without its versions."""
        from s2l_nemo.models.checkpoints.fingerprint import weights_fingerprint

        config = {name: value for name, value in self.config.items() if name not in _OF_WRITERS}
        return {"weights": weights_fingerprint(self.checkpoint), "config.json": _sha256(config)}

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The fast tokenizer. Raises UserError if there is none."""
        if self.snapshot is not None:
            fetch_small(self.snapshot)
        return load_tokenizer(self.hf_folder, self.path)

    @cached_property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Ids that end an answer, ascending. Raises UserError if there is none."""
        return stop_token_ids(self.hf_folder, self.tokenizer, self.path)


def open_model(key: str, path: str) -> Model:
    """Opens the model at `path`, or of that name on the hub. `key` is the configuration key that named it.

    Reads config.json only. Raises UserError if there is no model, its config.json cannot be read, or the model is not
    supported.
    """
    name = hub_name(Kind.model, path)
    snapshot = None if name is None else open_snapshot(f"{key}={path}", name)
    if snapshot is not None:
        fetch_config(snapshot)
        path = str(snapshot.folder)
    if not Path(path).exists():
        raise UserError(
            f"{key}={path} is not a folder: run tools/make_tiny_family.py for the tiny family, "
            "or give a Hugging Face folder, a NeMo folder, a .nemo file or owner/name of the hub"
        )
    if Path(path, "checkpoints").is_dir() and not Path(path, "config.json").is_file():
        raise UserError(
            f"{key}={path} is the folder of a run: give one of its checkpoints, such as {path}/checkpoints/step_000040"
        )
    folder = hf_files_folder(key, path)
    # as its user knows it, and not as it is unpacked
    shown = Path(path, "config.json") if folder == Path(path) else Path(path, HF_FILES, "config.json")
    try:
        content = (folder / "config.json").read_bytes()
    except FileNotFoundError:
        raise UserError(f"{key}={path} has no config.json: give the folder of a Hugging Face model") from None
    config = read_json_object(content, shown)
    return Model(key, path, config, shape_from_config_json(shown, config), folder, snapshot)


def tokenizer_hash(model: Model) -> str:
    """SHA-256 over tokenizer and `vocab_size`, as lowercase hex: models of equal hash share tokens."""
    return _sha256(_described(model))


def tokenizer_fingerprint(model: Model) -> dict[str, str]:
    """SHA-256 of what `tokenizer_hash` covers, and of each file of the vocabulary, with JSON as values."""
    found = {"tokens": tokenizer_hash(model)}
    for name in _TOKENIZER_FILES:
        if (file := model.hf_folder / name).is_file():
            content = file.read_bytes()
            is_json = name.endswith(".json")
            found[name] = _sha256(read_json_object(content, file)) if is_json else hashlib.sha256(content).hexdigest()
    return found


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def check_same_tokenizer(learner: Model, explorer: Model) -> None:
    """Raises UserError, with both paths and the first difference, if explorer and learner cannot share tokens.

    They share tokens if vocabulary, special tokens and EOS ids are equal, and the learner has a row for each token of
    the explorer: the smaller models of Qwen2.5 have fewer rows that belong to no token.
    """
    expected, found = _described(learner), _described(explorer)
    if explorer.shape.vocab < learner.shape.vocab:
        del expected["vocab_size"]
    for what, value in expected.items():
        difference = _first_difference(value, found[what])
        if difference:
            raise UserError(
                f"learner {learner.path} and explorer {explorer.path} differ in {what}: {difference}; choose two "
                "models of one family"
            )


def _described(model: Model) -> dict[str, Any]:
    return {
        "vocabulary": model.tokenizer.get_vocab(),
        "special tokens": {name: str(token) for name, token in model.tokenizer.special_tokens_map.items()},
        "EOS ids": model.stop_token_ids,
        "vocab_size": model.shape.vocab,
    }


def _first_difference(learner: Any, explorer: Any) -> str | None:
    if learner == explorer:
        return None
    if isinstance(learner, Mapping):
        key = min(key for key in {*learner, *explorer} if learner.get(key) != explorer.get(key))
        return f"{key!r} is {learner.get(key, 'absent')!r} against {explorer.get(key, 'absent')!r}"
    return f"{learner} against {explorer}"
