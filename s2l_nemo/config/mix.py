"""Where training prompts come from: `data.path` alone, or the weighted sources that `data.mix` names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from omegaconf import OmegaConf

from s2l_nemo.config.load import typed
from s2l_nemo.config.schema import DataConfig
from s2l_nemo.errors import UserError
from s2l_nemo.fields import POSITIVE, key


@dataclass
class SourceConfig:
    path: str | None = key(None, "as data.path", path=True)
    weight: float = key(1.0, "how often each row comes in an epoch; 0.5: every other row", POSITIVE)
    prompt_key: str | None = key(None, "as data.prompt_key; null: the same")
    answer_key: str | None = key(None, "as data.answer_key; null: the same")
    system_key: str | None = key(None, "as data.system_key; null: the same")


@dataclass(frozen=True)
class DataSource:
    """One file or hub data set, and where its rows hold question, answer and system message."""

    path: str
    prompt_key: str
    answer_key: str
    system_key: str | None
    weight: float = 1.0


def training_sources(data: DataConfig) -> list[DataSource]:
    """In the order in which they are named; none if prompts are generated.

    Raises UserError for an unknown key, a value of another type or out of range, or a source without a path.
    """
    if not data.mix:
        return [] if data.path is None else [source_at(data.path, data)]
    plain = OmegaConf.to_container(data.mix) if OmegaConf.is_config(data.mix) else data.mix
    return [_named(str(name), values, data) for name, values in cast(dict[str, Any], plain).items()]


def source_at(path: str, data: DataConfig) -> DataSource:
    """A source with the keys of `data`."""
    return DataSource(path, data.prompt_key, data.answer_key, data.system_key)


def _named(name: str, values: object, data: DataConfig) -> DataSource:
    section = f"data.mix.{name}"
    if not isinstance(values, dict):
        raise UserError(f"{section}={values}: expected keys below it, such as {section}.path=FILE")
    own = typed(SourceConfig, values, section)
    if own.path is None:
        raise UserError(f"{section} has no path: set {section}.path=FILE")
    if not POSITIVE.holds(own.weight):
        raise UserError(f"{section}.weight={own.weight}: must be {POSITIVE.wanted}")
    return DataSource(
        own.path,
        own.prompt_key or data.prompt_key,
        own.answer_key or data.answer_key,
        own.system_key or data.system_key,
        own.weight,
    )
