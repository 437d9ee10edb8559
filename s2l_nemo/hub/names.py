"""Which texts name something on the Hugging Face hub, and which are paths of this machine."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from s2l_nemo.errors import UserError


class Kind(str, Enum):
    """What a repository of the hub holds; the values are the hub's own."""

    model = "model"
    dataset = "dataset"


# What a path ends in. Such a text is a path even if nothing is there.
FILES = {
    Kind.model: (".nemo",),
    Kind.dataset: (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".gz"),
}
_PAGES = ("models", "datasets", "spaces")  # of the hub itself: nobody has these names, and folders do
_PART = r"[A-Za-z0-9][\w.-]*"
_REVISION = rf"{_PART}(/{_PART})*"
_NAMES = {
    Kind.model: re.compile(rf"(?P<repo>{_PART}/{_PART})(@(?P<revision>{_REVISION}))?"),
    Kind.dataset: re.compile(
        rf"(?P<repo>{_PART}/{_PART})(/(?P<config>[\w.-]+))?(@(?P<revision>{_REVISION}))?(:(?P<split>[\w.\[\]%:-]+))?"
    ),
}


@dataclass(frozen=True)
class HubName:
    """A repository of the hub at a revision: a branch, a tag or a commit."""

    kind: Kind
    repo: str  # owner/name
    revision: str = "main"
    config: str | None = None  # of a data set
    split: str = "train"  # of a data set

    @property
    def pin(self) -> str:
        """What a commit is recorded under: models/Qwen/Qwen3-1.7B-Base@main."""
        return f"{self.kind.value}s/{self.repo}@{self.revision}"

    @property
    def short(self) -> str:
        """The name without its owner, which can name a file."""
        return self.repo.partition("/")[2]


def hub_name(kind: Kind, text: str) -> HubName | None:
    """The name that `text` is, or None if it is a path of this machine.

    `owner/name[@revision]`, and for data sets `owner/name[/config][@revision][:split]`. What exists here is a path,
    whatever it looks like.
    """
    match = _NAMES[kind].fullmatch(text)
    if match is None or os.path.exists(text) or Path(text).suffix in FILES[kind]:
        return None
    found = {key: value for key, value in match.groupdict().items() if value is not None}
    owner, _, name = found["repo"].partition("/")
    if owner in _PAGES or any(".." in part or "--" in part for part in (owner, name, found.get("revision", ""))):
        return None
    return HubName(kind, **found)


def check_listed(asked: str, name: str) -> None:
    """Raises UserError if a file that a repository lists under `name` would lie outside of its folder in the cache."""
    if "\0" in name or "\\" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise UserError(f"{asked}: the repository lists {name!r}, which would leave the cache: nothing of it is taken")
