"""Which files of a repository are taken: safetensors, small files of text, rows of data; never code."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from s2l_nemo.errors import UserError
from s2l_nemo.hub.faults import HubUnreachableError
from s2l_nemo.hub.names import FILES, Kind, hub_name
from s2l_nemo.hub.snapshots import Snapshot, open_snapshot

CONFIG, INDEX, SINGLE = "config.json", "model.safetensors.index.json", "model.safetensors"
CARD = "README.md"  # of a data set: says which files are which configuration and split
_TEXTS = ("merges.txt", "vocab.txt", "chat_template.jinja", "tokenizer.model")


def small_files(snapshot: Snapshot) -> list[str]:
    """Configuration and tokenizer of a model."""
    return [name for name in snapshot.files if "/" not in name and (name.endswith(".json") or name in _TEXTS)]


def weight_files(snapshot: Snapshot) -> list[str]:
    """The safetensors of a model: those of its index, which is fetched, or its only one.

    Raises UserError if there are none.
    """
    if INDEX in snapshot.files:
        snapshot.fetch([INDEX])
        try:
            index = json.loads((snapshot.folder / INDEX).read_bytes())
            files = sorted(set(index["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UserError(f"{snapshot.asked}: its {INDEX} is no index of weights: give another revision") from None
    else:
        files = [SINGLE]
    absent = [str(file) for file in files if file not in snapshot.files]
    if absent and snapshot.hub.is_offline:
        raise HubUnreachableError(
            f"{snapshot.asked} is no file or folder here, HF_HUB_OFFLINE is set, and the cache {snapshot.hub.cache} "
            f"has no {absent[0]} of commit {snapshot.commit[:12]}: fetch it where there is a network"
        )
    if absent:
        raise UserError(
            f"{snapshot.asked}: {snapshot.name.repo} has no {absent[0]}, and other weights than safetensors are not "
            "read: give a repository that has them"
        )
    odd = [file for file in files if "/" in file or not file.endswith(".safetensors")]
    if odd:
        raise UserError(f"{snapshot.asked}: its {INDEX} names {odd[0]}, which is no file of weights beside it")
    return files


def split_files(snapshot: Snapshot) -> list[str]:
    """The files of the split that the name of a data set asks for, in the order of `datasets`.

    That library itself decides, on empty files of the same names: it knows the cards of the hub, and the names that
    stand for splits without a card. Only the card is fetched.

    Raises UserError if there is no such configuration or split, or if its files are not rows in plain text or parquet.
    """
    if any(sign in snapshot.name.split for sign in "[]%:"):
        raise UserError(f"{snapshot.asked}: parts of a split are not taken: give the name of a whole one")
    with tempfile.TemporaryDirectory(prefix="s2l_nemo_") as scratch:
        tree = Path(scratch).resolve() / "tree"
        for name in snapshot.files:
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).touch()
        if CARD in snapshot.files:
            snapshot.fetch([CARD])
            card = (snapshot.folder / CARD).read_text(encoding="utf-8", errors="replace")
            _check_card(snapshot, card)
            (tree / CARD).write_text(card, encoding="utf-8")
        found = _resolved(snapshot, tree)
    names = [path.relative_to(tree).as_posix() for path in found]
    unread = [name for name in names if not name.endswith(FILES[Kind.dataset])]
    if unread:
        raise UserError(
            f"{snapshot.asked}: {unread[0]} is of a kind that is not read: give a data set of "
            f"{', '.join(FILES[Kind.dataset])} files"
        )
    return names


def fetch_config(snapshot: Snapshot) -> None:
    """Downloads config.json, which is all that a plan needs."""
    snapshot.fetch([CONFIG] if CONFIG in snapshot.files else [])


def fetch_small(snapshot: Snapshot) -> None:
    """Downloads what the cache lacks of configuration and tokenizer."""
    snapshot.fetch(small_files(snapshot))


def fetch_model(snapshot: Snapshot) -> None:
    """Downloads what the cache lacks of a model: small files first, so that weights never stand without them."""
    fetch_small(snapshot)
    snapshot.fetch(weight_files(snapshot))


def model_folder(key: str, path: str, *, weights: bool = True) -> str:
    """`path` itself, or the folder of the cache with the model that it names on the hub, without weights if so asked.

    `key` is the option that named it. Raises UserError if the hub has no such model, or cannot be reached.
    """
    name = hub_name(Kind.model, path)
    if name is None:
        return path
    snapshot = open_snapshot(f"{key}={path}", name)
    if weights:
        fetch_model(snapshot)
    else:
        fetch_small(snapshot)
    return str(snapshot.folder)


def data_files(source: str) -> list[Path] | None:
    """The files of a split of a data set on the hub, downloaded. None if `source` is a path of this machine.

    Raises UserError if the hub has no such data set, or cannot be reached.
    """
    name = hub_name(Kind.dataset, source)
    if name is None:
        return None
    snapshot = open_snapshot(source, name)
    names = split_files(snapshot)
    snapshot.fetch(names)
    return [snapshot.folder / name for name in names]


def listed_file(folder: Path, file: str) -> Path:
    """`folder / file`, downloaded if `folder` is the name of a data set on the hub.

    Raises UserError if the hub has no such data set, or cannot be reached. The file need not exist.
    """
    name = hub_name(Kind.dataset, str(folder))
    if name is None:
        return folder / file
    snapshot = open_snapshot(str(folder), name)
    snapshot.fetch([file] if file in snapshot.files else [])
    return snapshot.folder / file


def _resolved(snapshot: Snapshot, tree: Path) -> list[Path]:
    import datasets

    datasets.logging.set_verbosity_error()
    name = snapshot.name
    try:
        # its builder makes folders and locks in its own cache
        builder = datasets.load_dataset_builder(str(tree), name.config, cache_dir=str(tree.parent / "cache"))
        splits = {str(split): list(map(str, files)) for split, files in (builder.config.data_files or {}).items()}
    except Exception as error:
        # the library has no common error; its message names the configurations that there are
        reason = str(error).replace(str(tree), name.repo).strip().split("\n")
        raise UserError(f"{snapshot.asked}: {' '.join(reason[:2])[:300]}") from error
    if name.split not in splits:
        raise UserError(f"{snapshot.asked}: there is no split {name.split}: choose one of {', '.join(splits)}")
    return [Path(file) for file in splits[name.split]]


def _check_card(snapshot: Snapshot, card: str) -> None:
    """Refuses a card whose patterns of files would leave the repository: they would be looked for on this machine."""
    import yaml
    from huggingface_hub.repocard import RepoCard

    try:
        head = RepoCard(card, ignore_metadata_errors=True).data.to_dict()
    except (ValueError, TypeError, yaml.YAMLError):
        raise UserError(f"{snapshot.asked}: the head of its {CARD} is not YAML: give another revision") from None
    for text in _texts(head.get("configs")):
        if text.startswith(("/", "~")) or "\\" in text or "://" in text or ".." in text.split("/"):
            raise UserError(f"{snapshot.asked}: its {CARD} names the files {text!r}, which would leave the repository")


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for part in value for text in _texts(part)]
    return [value] if isinstance(value, str) else []
