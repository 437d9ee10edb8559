"""Named choices of a configuration key that anybody may add to: loss rules, schedules, engines, model families."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from s2l_nemo.errors import UserError

Choice = TypeVar("Choice")


def imported(name: str) -> Any:
    """What a text `package.module:name` names. Raises ImportError or AttributeError if there is no such thing."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


@dataclass(frozen=True)
class Wanted:
    """What an object from an import path must be. `words` completes the sentence "must be ..."."""

    holds: Callable[[Any], bool]
    words: str


def from_path(key: str, path: str, wanted: Wanted) -> Any:
    """What the value `package.module:name` of a key names.

    Raises UserError in one line if it is no such text, if the module cannot be imported or lacks the name, and if what
    it names is not `wanted`.
    """
    module_name, colon, name = path.partition(":")
    if not (module_name and colon and name):
        raise UserError(f"{key}={path} is no import path: give package.module:name")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and (module_name + ".").startswith(missing + "."):
            raise UserError(f"{key}={path}: there is no module {missing}; is its folder in PYTHONPATH?") from error
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{key}={path}: importing {module_name} fails: {reason}") from error
    if not hasattr(module, name):
        raise UserError(f"{key}={path}: {module_name} has no {name}")
    found = getattr(module, name)
    if not wanted.holds(found):
        shown = " ".join(repr(found).split())
        raise UserError(f"{key}={path}: {name} is {shown:.80}, must be {wanted.words}")
    return found


class Registry(Generic[Choice]):
    """The choices of one key by name.

    A choice of this project is named by a text `package.module:name` and is imported when it is first asked for, so
    that reading a configuration imports no torch. `register` adds one from anywhere. With `wanted`, a value
    `package.module:name` is a choice too: what it names.
    """

    def __init__(self, key: str, choices: Mapping[str, Choice | str], wanted: Wanted | None = None) -> None:
        """`key` is the configuration key whose value names a choice. It appears in messages."""
        self.key = key
        self.wanted = wanted
        self._choices: dict[str, Choice | str] = dict(choices)

    def register(self, name: str, choice: Choice) -> Choice:
        """Adds a choice and returns it. Raises ValueError if the name is taken."""
        if name in self._choices:
            raise ValueError(f"{self.key}={name} is registered already: choose another name")
        self._choices[name] = choice
        return choice

    def __getitem__(self, name: str) -> Choice:
        """The choice of this name.

        Raises UserError for a name that nobody has registered, and for an import path that does not lead to a choice.
        """
        if name not in self._choices:
            if self.wanted is not None and ":" in name:
                return cast(Choice, from_path(self.key, name, self.wanted))
            raise UserError(f"{self.key}={name} is unknown: choose one of {self.names_in_words(', ')}")
        choice = self._choices[name]
        if isinstance(choice, str):
            choice = self._choices[name] = cast(Any, imported(choice))
        return choice

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):  # a value of the user may be a list
            return False
        return name in self._choices or (self.wanted is not None and ":" in name)

    def names(self) -> list[str]:
        """All names, in the order of registration."""
        return list(self._choices)

    def names_in_words(self, separator: str) -> str:
        """All that a value may be, for messages."""
        return separator.join([*self._choices, *([] if self.wanted is None else ["package.module:name"])])
