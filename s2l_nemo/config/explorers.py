"""The explorers of a run: the section `explorer` alone, or those that `explorers` names."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from s2l_nemo.config.load import typed
from s2l_nemo.config.schema import Config, ExplorerConfig
from s2l_nemo.errors import UserError

if TYPE_CHECKING:
    from s2l_nemo.types import SamplingParams  # torch

ONLY = "explorer"  # the name of a single one
_RESERVED = ("learner", ONLY)  # what metrics call the learner, and all explorers together


@dataclass(frozen=True)
class Explorer:
    """One explorer. Its source (`types.Source`) is its place in the list, counted from 1."""

    name: str
    key: str  # the section that holds its keys
    options: ExplorerConfig

    def sampling(self, learner: SamplingParams) -> SamplingParams:
        """How it samples: as the learner, but for the keys that it has itself."""
        own = {
            "temperature": self.options.temperature,
            "top_p": self.options.top_p,
            "top_k": self.options.top_k,
            "max_new_tokens": self.options.max_response_length,
        }
        given: dict[str, Any] = {name: value for name, value in own.items() if value is not None}
        return replace(learner, **given)


def explorers_of(cfg: Config) -> list[Explorer]:
    """In the order in which they are named. None if `explorer.path` is null.

    Raises UserError for a name that metrics cannot have, an unknown key, or a value of another type.
    """
    if not cfg.explorers:
        return [Explorer(ONLY, "explorer", cfg.explorer)] if cfg.explorer.path is not None else []
    return [_named(name, values) for name, values in OmegaConf.to_container(cfg.explorers).items()]  # type: ignore[union-attr]


def _named(name: object, values: object) -> Explorer:
    key = f"explorers.{name}"
    if not isinstance(name, str) or not re.fullmatch("[a-z][a-z0-9_]*", name) or name in _RESERVED:
        raise UserError(
            f"{key}: an explorer's name has small letters, digits and _, and is not {' or '.join(_RESERVED)}: rename it"
        )
    if not isinstance(values, dict):
        raise UserError(f"{key}={values}: expected keys below it, such as {key}.path=FOLDER")
    return Explorer(name, key, typed(ExplorerConfig, values, key))
