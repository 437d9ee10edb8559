"""The validation sets of a run: benchmarks that it is asked during training, each under a mode of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass

from omegaconf import OmegaConf

from s2l_nemo.config.asking import Asking, Mode
from s2l_nemo.config.load import typed
from s2l_nemo.config.schema import Config
from s2l_nemo.errors import UserError
from s2l_nemo.fields import POSITIVE_COUNT, key

METRIC = "validation/pass@1"  # of the run's own held-out prompts


@dataclass
class SetOptions(Asking):
    """The keys of `validation.options.NAME`."""

    benchmark: str | None = key(None, "file of validation.data; null: the set's name")
    mode: Mode = key(Mode.nothink, "sampling and chat template: without or with a thinking part")
    k: int | None = key(None, "samples of each problem; null: validation.samples", POSITIVE_COUNT)


@dataclass(frozen=True)
class ValidationSet:
    """One of `validation.sets`. Metrics go by its name."""

    name: str
    options: SetOptions

    @property
    def benchmark(self) -> str:
        """The name of its file."""
        return self.options.benchmark or self.name

    @property
    def key(self) -> str:
        """The section of its keys."""
        return f"validation.options.{self.name}"


def validation_sets(cfg: Config) -> list[ValidationSet]:
    """In the order of `validation.sets`.

    Raises UserError for a name that metrics cannot have or that comes twice, an unknown key, or a value of another
    type.
    """
    names, options = list(cfg.validation.sets), OmegaConf.to_container(OmegaConf.create(cfg.validation.options))
    assert isinstance(options, dict)
    for name in names:
        if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9._-]*", name) or names.count(name) > 1:
            raise UserError(
                f"validation.sets=[{','.join(names)}]: give each name once, of letters, digits, '.', '_' and '-'"
            )
    strangers = [str(name) for name in options if name not in names]
    if strangers:
        raise UserError(f"validation.options.{strangers[0]}: no such set; add {strangers[0]} to validation.sets")
    return [ValidationSet(name, _options(name, options.get(name, {}))) for name in names]


def validation_metrics_of(cfg: Config) -> list[str]:
    """The metrics by which checkpoints may be compared."""
    return [METRIC, *(f"validation/{one.name}/pass@1" for one in validation_sets(cfg))]


def _options(name: str, values: object) -> SetOptions:
    section = f"validation.options.{name}"
    if not isinstance(values, dict):
        raise UserError(f"{section}={values}: expected keys below it, such as {section}.mode=think")
    return typed(SetOptions, values, section)
