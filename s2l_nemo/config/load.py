"""From the command line and conf/ to a typed configuration. Hydra composes the files; the schema types every value."""

from __future__ import annotations

import argparse
import copy
import difflib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from s2l_nemo.config.keys import Key, all_keys, mapping_of, nearest_key, sections
from s2l_nemo.config.overrides import Given, home_path, read_arguments
from s2l_nemo.config.schema import Config
from s2l_nemo.errors import UserError
from s2l_nemo.plain_yaml import NotPlain, load_plain

DEFAULT_CONFIG = "train_s2l"
NO_GROUPS = ("evaluate", "store")  # folders of conf/ with presets of other commands
_DEFAULTS: dict[type[Any], DictConfig] = {}
PLAIN = {"experiment": "s2l"}  # what null stands for: the toy figures of an experiment need a name

Schema = TypeVar("Schema")


def load_config(argv: list[str], conf_dir: Path) -> Config:
    """Reads `[--config-name NAME] [key=value ...]`, as in Hydra; the result is an OmegaConf object of type `Config`.

    `--help` prints `help_text` and raises SystemExit. Values are typed and known, not yet consistent: see `checks`.

    Raises UserError for an unknown preset, group choice or key, a value of another type, or YAML that is malformed.
    """
    parser = _Parser("[--config-name NAME] and key=value pairs", lambda: help_text(conf_dir))
    parser.add_argument("--config-name", default=DEFAULT_CONFIG)
    args = parser.parse_intermixed_args(argv)
    groups, overrides = _split_overrides(args.overrides, _groups(conf_dir), Config)
    composed = _compose(conf_dir, args.config_name.removesuffix(".yaml"), groups)
    return _build(Config, composed, overrides)


def load_values(argv: list[str], schema: type[Schema], usage: str, presets_dir: Path | None = None) -> Schema:
    """Reads `[key=value ...]` into an OmegaConf object of type `schema`, without groups; else as `load_config`.

    `usage` is what `--help` says before it lists the keys. With `presets_dir`, `--config-name NAME` takes its files.
    """

    def text() -> str:
        named = [] if presets_dir is None else ["", "presets (--config-name):", *_described(presets_dir)]
        return "\n".join([usage.rstrip(), *named]) + "\n" + keys_text(schema)

    wanted = "key=value pairs" if presets_dir is None else "[--config-name NAME] and key=value pairs"
    parser = _Parser(wanted, text)
    if presets_dir is not None:
        parser.add_argument("--config-name")
    args = parser.parse_intermixed_args(argv)
    _, overrides = _split_overrides(args.overrides, {}, schema)
    name = getattr(args, "config_name", None)
    composed = {} if name is None else _compose(cast(Path, presets_dir), name.removesuffix(".yaml"), [])
    return _build(schema, composed, overrides)


def typed(schema: type[Schema], values: Mapping[str, Any], section: str) -> Schema:
    """The keys of a section whose name is free, such as `explorers.NAME`, as an OmegaConf object of type `schema`.

    Raises UserError for an unknown key or a value of another type.
    """
    cfg = _defaults(schema)
    for name, value in _leaves("", values, schema):
        try:
            _set(cfg, name, value, schema)
        except UserError as error:
            raise UserError(f"{section}: {error}") from None
    return cast(Schema, cfg)


def with_defaults(schema: type[Schema], values: Mapping[Any, Any]) -> Schema:
    """These values and the schema's own for all others. Raises OmegaConf's errors for what the schema does not take."""
    mine, given = _defaults(schema), OmegaConf.create(dict(values))
    return cast(Schema, OmegaConf.unsafe_merge(mine, given))  # both are of no use to anybody else


def _defaults(schema: type[Any]) -> DictConfig:
    """The schema's own values, to be changed: a copy takes a sixth of the time that OmegaConf takes to make them."""
    if schema not in _DEFAULTS:
        _DEFAULTS[schema] = OmegaConf.structured(schema)
    return copy.deepcopy(_DEFAULTS[schema])


def resolved_yaml(cfg: object) -> str:
    """Every key with its value, as YAML that can be read back."""
    return OmegaConf.to_yaml(cfg)


def presets(conf_dir: Path) -> list[str]:
    """Names that `--config-name` takes."""
    return sorted(path.stem for path in conf_dir.glob("*.yaml"))


def help_text(conf_dir: Path) -> str:
    """Usage, presets, groups and every key with type, default and meaning."""
    lines = ["usage: python recipes/train_s2l.py [--config-name NAME] [group=choice ...] [key=value ...]", ""]
    lines += [f"presets (--config-name; default {DEFAULT_CONFIG}):"]
    lines += _described(conf_dir)
    for group in _groups(conf_dir):
        lines += ["", f"{group}=NAME:"]
        lines += _described(conf_dir / group)
    return "\n".join(lines) + "\n" + keys_text(Config)


def keys_text(schema: type) -> str:
    """Every key of a schema with type, default and meaning; top-level keys first, then a paragraph a section."""
    lines = []
    section = None
    for key in sorted(all_keys(schema).values(), key=lambda key: "." in key.name):
        if key.name.rpartition(".")[0].partition(".")[0] != section:
            section = key.name.rpartition(".")[0].partition(".")[0]
            lines += ["", f"{section or 'keys'}:"]
        lines.append(f"  {key.name + '=' + key.default_text():<52} {key.expected()}")
        lines.append(f"      {key.facts.help}")
    return "\n".join(lines) + "\n"


class _Parser(argparse.ArgumentParser):
    def __init__(self, wanted: str, text: Callable[[], str]) -> None:
        super().__init__(allow_abbrev=False)
        self.add_argument("overrides", nargs="*")
        self._wanted = wanted
        self._text = text

    def format_help(self) -> str:
        return self._text()

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}: give {self._wanted}, or --help")


def _build(schema: type[Schema], composed: Mapping[Any, Any], given: list[Given]) -> Schema:
    cfg = _defaults(schema)
    for key, value in _leaves("", composed, schema):
        _set(cfg, key, value, schema)
    for one in given:
        for key, value in _leaves(one.name, one.value, schema):
            _set(cfg, key, value, schema)
    _resolve(cfg, schema)
    return cast(Schema, cfg)


def _groups(conf_dir: Path) -> dict[str, list[str]]:
    folders = sorted(path for path in conf_dir.iterdir() if path.is_dir() and path.name not in NO_GROUPS)
    return {folder.name: sorted(path.stem for path in folder.glob("*.yaml")) for folder in folders}


def _described(folder: Path) -> list[str]:
    return [f"  {name:<28} {_first_comment(folder / f'{name}.yaml')}" for name in presets(folder)]


def _first_comment(path: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="replace")
    comments = [line for line in text.splitlines() if line.startswith("# ") and "@package" not in line]
    return comments[0].removeprefix("# ") if comments else ""


def _split_overrides(arguments: list[str], groups: dict[str, list[str]], schema: type) -> tuple[list[str], list[Given]]:
    """Choices of groups, for Hydra to compose, and values, for the schema to type."""
    chosen, values = [], []
    for given in read_arguments(arguments, schema):
        name, choice = given.name, given.value
        if name not in groups:
            values.append(given)
            continue
        if choice is not None and choice not in groups[name]:
            raise UserError(f"{name}={choice} is unknown: {_choose(str(choice), groups[name])}")
        choice = PLAIN.get(name) if choice is None else choice
        chosen.append(f"~{name}" if choice is None else f"{name}={choice}")
    return chosen, values


def _compose(conf_dir: Path, config_name: str, groups: list[str]) -> dict[Any, Any]:
    names = presets(conf_dir)
    if config_name not in names:
        raise UserError(f"--config-name {config_name} is unknown in {conf_dir}: {_choose(config_name, names)}")
    for path in sorted(conf_dir.rglob("*.yaml")):
        _check_yaml(path)
    try:
        with initialize_config_dir(str(conf_dir.resolve()), version_base="1.3"):
            composed = compose(config_name, groups)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{conf_dir / config_name}.yaml: {_one_line(error)}") from None
    return cast(dict[Any, Any], OmegaConf.to_container(composed, resolve=False))


def _check_yaml(path: Path) -> None:
    """Refuses what Hydra would load slowly, unsafely or with a traceback."""
    try:
        OmegaConf.create(read_plain(path, path.read_bytes()))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: correct the path") from None
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {_one_line(error)}") from None


def read_plain(path: Path, content: bytes) -> dict[Any, Any]:
    """What `content`, of the file `path`, holds. Raises UserError unless it is a YAML mapping of plain values."""
    try:
        return load_plain(content) or {}
    except NotPlain as error:
        raise UserError(f"{path}{f':{error.line}' if error.line else ''}: {error}") from None


def _leaves(name: str, value: Any, schema: type) -> Iterator[tuple[str, Any]]:
    known = all_keys(schema).get(name)
    if isinstance(value, Mapping) and not (known and known.is_mapping):
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}" if name else str(key), inner, schema)
    else:
        yield name, value


def _set(cfg: DictConfig, name: str, value: Any, schema: type) -> None:
    if name in sections(schema):
        example = next(key for key in all_keys(schema) if key.startswith(f"{name}."))
        raise UserError(f"{name}={value}: {name} is a section, set keys below it such as {example}")
    key = all_keys(schema).get(name) or mapping_of(name, schema)
    if key is None:
        raise UserError(f"unknown key {name}={value}: the nearest known key is {nearest_key(name, schema)}")
    refusal = UserError(f"{name}={'null' if value is None else value}: expected {key.expected()}")
    if key.is_list and isinstance(value, str | int | float):
        value = [value]  # a list of one needs no brackets
    if not _may_take(key, value):
        raise refusal
    if key.facts.path:
        value = [home_path(name, one) for one in value] if isinstance(value, list) else home_path(name, value)
    try:
        OmegaConf.update(cfg, name, value, merge=True)
    except OmegaConfBaseException:
        raise refusal from None


def _may_take(key: Key, value: Any) -> bool:
    """False for what OmegaConf alone would take: 3 for true, a list in a list of texts, a choice nobody registered."""
    if key.facts.choices is not None:
        return value in key.facts.choices
    if key.type is bool:
        return isinstance(value, bool) or not isinstance(value, int | float)
    return not (key.is_list and isinstance(value, list) and any(isinstance(item, list | dict) for item in value))


def _resolve(cfg: DictConfig, schema: type) -> None:
    for name in all_keys(schema):
        try:
            value = OmegaConf.select(cfg, name, throw_on_missing=True)
            if isinstance(value, DictConfig | ListConfig):
                OmegaConf.resolve(value)
        except MissingMandatoryValue:
            raise UserError(f"{name}=???: give a value") from None
        except OmegaConfBaseException as error:
            raise UserError(f"{name}: cannot resolve the reference: {_one_line(error)}") from None
    OmegaConf.resolve(cfg)


def _choose(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    return f"{guess}choose one of {', '.join(known)}"


def _one_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
