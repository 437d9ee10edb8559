"""Named choices of a configuration key that anybody may add to: loss rules, schedules, engines, model families."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Generic, TypeVar, cast

from s2l_nemo.errors import UserError

Choice = TypeVar("Choice")


def imported(name: str) -> Any:
    """What a text `package.module:name` names. Raises ImportError or AttributeError if there is no such thing."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


class Registry(Generic[Choice]):
    """The choices of one key by name.

    A choice of this project is named by a text `package.module:name` and is imported when it is first asked for, so
    that reading a configuration imports no torch. `register` adds one from anywhere.
    """

    def __init__(self, key: str, choices: Mapping[str, Choice | str]) -> None:
        """`key` is the configuration key whose value names a choice. It appears in messages."""
        self.key = key
        self._choices: dict[str, Choice | str] = dict(choices)

    def register(self, name: str, choice: Choice) -> Choice:
        """Adds a choice and returns it. Raises ValueError if the name is taken."""
        if name in self._choices:
            raise ValueError(f"{self.key}={name} is registered already: choose another name")
        self._choices[name] = choice
        return choice

    def __getitem__(self, name: str) -> Choice:
        """The choice of this name. Raises UserError for a name that nobody has registered."""
        if name not in self._choices:
            raise UserError(f"{self.key}={name} is unknown: choose one of {', '.join(self._choices)}")
        choice = self._choices[name]
        if isinstance(choice, str):
            choice = self._choices[name] = cast(Any, imported(choice))
        return choice

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._choices  # a value of the user may be a list

    def names(self) -> list[str]:
        """All names, in the order of registration."""
        return list(self._choices)
