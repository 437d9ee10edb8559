"""Whether a run may continue with another configuration: a key may differ only if its facts say `may_change`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from s2l_nemo.algorithm.schedule import SCHEDULES
from s2l_nemo.config.keys import all_keys, mapping_of
from s2l_nemo.config.schema import Config, LrSchedule
from s2l_nemo.errors import UserError

Values = dict[str, Any]  # dotted keys with plain values, as in YAML


def check_resume(run_dir: Path, old_yaml: str, new_yaml: str, steps_done: int) -> None:
    """Compares the configuration that a run began with to the one that is to continue it after `steps_done` steps.

    Both are resolved YAML. A key that the old one lacks, as in a run of an earlier version, has its default there.

    Raises UserError for the first key that may not differ and does, for a key of the old one that this version does
    not know, and for fewer steps than are done.
    """
    old, new = _values(old_yaml), _values(new_yaml)
    for name in old:
        if name not in all_keys() and mapping_of(name, Config) is None:
            raise UserError(
                f"run.dir={run_dir} was started with {name}={_shown(old[name])}, a key that this version does not "
                "know; continue it with the version that versions.json names, or choose another run.dir"
            )
    names = dict.fromkeys([*new, *old])  # in the order of the schema; free names of the old one come last
    for name in (name for name in names if not _may_change(name, new)):
        before, after = _value(old, name), _value(new, name)
        if before != after:
            raise UserError(
                f"run.dir={run_dir} was started with {name}={_shown(before)}, now {_shown(after)}; "
                f"set {name}={_shown(before)} to continue it, or choose another run.dir"
            )
    if new["algorithm.steps"] < steps_done:
        raise UserError(
            f"algorithm.steps={new['algorithm.steps']}, but run.dir={run_dir} has done {steps_done}; raise it"
        )


def _may_change(name: str, new: Values) -> bool:
    if name == "algorithm.schedule.t_mix" and not SCHEDULES[new["algorithm.schedule.name"]].uses_t_mix:
        return True
    if name == "algorithm.steps" and new["model.optim.lr_schedule"] == LrSchedule.cosine.name:
        return False  # the cosine ends at the last step
    key = all_keys().get(name) or mapping_of(name, Config)
    assert key is not None
    return key.facts.may_change


def _value(values: Values, name: str) -> Any:
    """What the run really uses. A free name that is not given counts as null."""
    value = values.get(name)
    if name == "algorithm.schedule.t_mix" and value is None:
        return values["algorithm.steps"] // 2  # so more steps with t_mix=null would move the annealing
    return value


def _values(config_yaml: str) -> Values:
    """Every key of the schema with the file's value, or with its default if the file has none, and all other keys."""
    defaults = OmegaConf.to_yaml(OmegaConf.structured(Config))
    return _flatten(yaml.safe_load(defaults)) | _flatten(yaml.safe_load(config_yaml) or {})


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Values:
    flat: Values = {}
    for key, value in config.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
