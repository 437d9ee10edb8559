"""What a run would download from the hub, and how much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import OmegaConf

from s2l_nemo.config.schema import Config
from s2l_nemo.hub.faults import HubUnreachableError
from s2l_nemo.hub.files import small_files, split_files, weight_files
from s2l_nemo.hub.names import HubName, Kind, hub_name
from s2l_nemo.hub.snapshots import open_snapshot
from s2l_nemo.planner.memory import live_explorers


def download_rows(cfg: Config) -> Iterator[tuple[str, ...]]:
    """A row for each name of the hub: key and value, commit, size, and what of it the cache lacks.

    Small files are fetched: an index of weights, the card of a data set. If the hub cannot be reached, the row says so.
    Raises UserError if the hub has no such repository.
    """
    for asked, name in _names(cfg):
        try:
            snapshot = open_snapshot(asked, name)
            if name.kind is Kind.dataset:
                files = split_files(snapshot)
            else:
                files = small_files(snapshot) + weight_files(snapshot)
            lacking = snapshot.lacking(files)
        except HubUnreachableError as error:
            yield f"{error}: size unknown", "", "", ""
            continue
        yield asked, snapshot.commit[:12], _megabytes(snapshot.size(files)), _megabytes(snapshot.size(lacking))


def _names(cfg: Config) -> Iterator[tuple[str, HubName]]:
    models = [("model.path", cfg.model.path), *((f"{one.key}.path", one.options.path) for one in live_explorers(cfg))]
    data = _paths("data", OmegaConf.to_container(cfg.data))
    for kind, paths in ((Kind.model, models), (Kind.dataset, data)):
        for key, path in paths:
            name = hub_name(kind, str(path))
            if name is not None:
                yield f"{key}={path}", name


def _paths(section: str, values: Any) -> list[tuple[str, str]]:
    """Every key of a section that names a file of prompts."""
    found = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _paths(f"{section}.{key}", value)
        elif key in ("path", "valid_path") and value is not None:
            found.append((f"{section}.{key}", str(value)))
    return found


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
