"""Whether a run may continue with another configuration: a key may differ only if its facts say `may_change`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from s2l_nemo.algorithm.schedule import SCHEDULES
from s2l_nemo.config.keys import all_keys, mapping_of
from s2l_nemo.config.load import read_plain, resolved_yaml, with_defaults
from s2l_nemo.config.schema import Config
from s2l_nemo.errors import UserError

T_MIX = "algorithm.schedule.t_mix"
_READ = {T_MIX: (int, type(None)), "algorithm.steps": (int,), "algorithm.schedule.name": (str,)}
Values = dict[str, Any]  # dotted keys with plain values, as in YAML


def check_resume(run_dir: Path, old_yaml: str, new_yaml: str, steps_done: int) -> None:
    """Compares the configuration that a run began with to the one that is to continue it after `steps_done` steps.

    Both are resolved YAML. A key that the old one lacks, as in a run of an earlier version, has its default there.

    `algorithm.schedule.t_mix=null` stands for the T_mix that the run has had so far: see `t_mix_of`.

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
        before, after = old.get(name), new.get(name)  # a free name that is not given counts as null
        if name == T_MIX:
            before = _t_mix(old)
            after = before if after is None else after
        if before != after and not _same_place(name, before, after):
            raise UserError(
                f"run.dir={run_dir} was started with {name}={_shown(before)}, now {_shown(after)}; "
                f"set {name}={_shown(before)} to continue it, or choose another run.dir"
            )
    if new["algorithm.steps"] < steps_done:
        raise UserError(
            f"algorithm.steps={new['algorithm.steps']}, but run.dir={run_dir} has done {steps_done}; raise it"
        )


def _same_place(name: str, before: Any, after: Any) -> bool:
    """Whether two values of a path lead to the same file or folder, as `models/x/` and the absolute path of it do."""
    key = all_keys().get(name)
    is_path = key.facts.path if key is not None else name.endswith(".path")
    if not is_path or not all(isinstance(value, str) and value for value in (before, after)):
        return False
    return bool(os.path.realpath(before) == os.path.realpath(after))


def _may_change(name: str, new: Values) -> bool:
    if name == T_MIX and not SCHEDULES[new["algorithm.schedule.name"]].uses_t_mix:
        return True
    key = all_keys().get(name) or mapping_of(name, Config)
    assert key is not None
    return key.facts.may_change


def t_mix_of(config_yaml: str) -> int | None:
    """T_mix of a run with this configuration, None if its schedule has none.

    A run that is continued with other `algorithm.steps` keeps it, so that null does not move the annealing.
    """
    values = _values(config_yaml)
    return _t_mix(values) if SCHEDULES[values["algorithm.schedule.name"]].uses_t_mix else None


def _t_mix(values: Values) -> int:
    given: int | None = values[T_MIX]
    steps: int = values["algorithm.steps"]
    return steps // 2 if given is None else given


def _values(config_yaml: str) -> Values:
    """Every key of the schema with the file's value, or with its default if the file has none, and all other keys."""
    given = read_plain(Path("config.yaml of the run"), config_yaml.encode(errors="surrogateescape"))
    values = _default_values() | _flatten(given)
    for name, kinds in _READ.items():
        if type(values[name]) not in kinds:
            raise UserError(
                f"config.yaml of the run says {name}={values[name]!r:.80}: restore it, or choose another run.dir"
            )
    return values


@cache
def _default_values() -> Values:
    """As YAML gives them back, which has texts for enums."""
    return _flatten(read_plain(Path("defaults"), resolved_yaml(with_defaults(Config, {})).encode()))


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Values:
    flat: Values = {}
    for key, value in config.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
