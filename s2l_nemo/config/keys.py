"""The keys of a schema with type, default and facts: for `--help`, for checks and for error messages."""

from __future__ import annotations

import difflib
import types
import typing
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any

from s2l_nemo.config.schema import Config
from s2l_nemo.fields import Facts, facts_of


@dataclass(frozen=True)
class Key:
    """One key of the configuration, `name` with dots."""

    name: str
    type: Any
    default: Any
    facts: Facts

    @property
    def is_mapping(self) -> bool:
        """Whether names below this key are free."""
        return typing.get_origin(self.type) is dict

    @property
    def is_list(self) -> bool:
        """Whether the value is a list of plain values."""
        return typing.get_origin(self.type) is list

    @property
    def is_text(self) -> bool:
        """Whether the value is one text, or null."""
        return self.type is str or set(typing.get_args(self.type)) == {str, type(None)}

    def expected(self) -> str:
        """What a value must be, in words."""
        if self.facts.choices is not None:
            return self.facts.choices.names_in_words(" | ")
        return _in_words(self.type)

    def default_text(self) -> str:
        """The default as it would be written in YAML."""
        if self.default is None:
            return "null"
        if isinstance(self.default, bool):
            return str(self.default).lower()
        if isinstance(self.default, list):
            return f"[{','.join(map(str, self.default))}]"
        return self.default.name if isinstance(self.default, Enum) else str(self.default)


@cache
def all_keys(schema: type = Config) -> dict[str, Key]:
    """Every key by name, in the order of the schema."""
    return {key.name: key for key in _keys(schema, "")}


@cache
def sections(schema: type = Config) -> frozenset[str]:
    """Names that hold keys, such as `algorithm.schedule`."""
    return frozenset(name.rsplit(".", n)[0] for name in all_keys(schema) for n in range(1, name.count(".") + 1))


def mapping_of(name: str, schema: type) -> Key | None:
    """The key whose value is a mapping of free names, if `name` is one of them."""
    mappings = (key for key in all_keys(schema).values() if key.is_mapping)
    return next((key for key in mappings if name.startswith(f"{key.name}.")), None)


def nearest_key(name: str, schema: type = Config) -> str:
    """The known key most like `name`, as a whole or in its last part (`kl_coef` for `algorithm.kl_coef`)."""

    def likeness(known: str) -> tuple[float, float]:
        whole = difflib.SequenceMatcher(None, name, known).ratio()
        last = difflib.SequenceMatcher(None, name.rpartition(".")[2], known.rpartition(".")[2]).ratio()
        return max(whole, 0.95 * last), whole

    return max(all_keys(schema), key=likeness)


def _keys(schema: type, prefix: str) -> list[Key]:
    hints = typing.get_type_hints(schema)
    defaults = schema()
    found = []
    for field in fields(schema):
        hint, default = hints[field.name], getattr(defaults, field.name)
        if is_dataclass(hint):
            found += _keys(typing.cast(type, hint), f"{prefix}{field.name}.")
        else:
            found.append(Key(prefix + field.name, hint, default, facts_of(field.metadata)))
    return found


def _in_words(hint: Any) -> str:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_in_words(part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is dict:
        return "mapping"
    if typing.get_origin(hint) is list:
        return f"list of {_in_words(typing.get_args(hint)[0])}, [a,b]"
    if issubclass(hint, Enum):
        return " | ".join(member.name for member in hint)
    return {bool: "true | false", int: "integer", float: "number", str: "text", type(None): "null"}[hint]
