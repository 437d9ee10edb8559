"""Arguments `key=value` as a shell hands them over. Hydra's grammar has the lists, quotes and numbers.

A text needs no quotes: what the grammar does not take for one value is the text as it stands, so `run.dir=~/runs (2)`
and `data.instruction=Put it into \\boxed{}.` mean what they say.
"""

from __future__ import annotations

import re
import shlex
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from s2l_nemo.arguments import NO_TEXT, at_home, is_text
from s2l_nemo.config.keys import Key, all_keys, mapping_of
from s2l_nemo.errors import UserError

_NAME = re.compile(r"\+{0,2}([\w.-]+)", re.ASCII)
_OPENS = ("[", "{", "'", '"')  # what begins so is meant for the grammar
_OF_GRAMMAR = re.compile(r"""[\[\]{}'"\\]""")


@dataclass(frozen=True)
class Given:
    """One argument: the name of a key, a section or a group, and its value."""

    name: str
    value: Any


def read_arguments(arguments: Sequence[str], schema: type) -> Iterator[Given]:
    """The arguments of a command, whose keys are those of `schema`. Raises UserError for what is no `key=value`."""
    for place, argument in enumerate(arguments):
        name, equals, text = argument.partition("=")
        if not is_text(argument):
            raise UserError(f"{argument!a} {NO_TEXT}")
        if argument.startswith("~"):
            raise UserError(f"'{argument}' takes something away: give one value, key=value")
        match = _NAME.fullmatch(name)
        if match is None or not equals:
            raise UserError(f"cannot read '{argument}' as key=value: {_advice(arguments, place)}")
        key = all_keys(schema).get(match[1]) or mapping_of(match[1], schema)
        yield Given(match[1], _value(argument, text.strip(), key))


def _advice(arguments: Sequence[str], place: int) -> str:
    """What to do with an argument that is no pair: as a rule it is the second half of a path with a space."""
    first = next((index for index in reversed(range(place)) if _is_pair(arguments[index])), None)
    if first is None:
        return "give the name of a key, = and its value, with no space between"
    after = place + 1
    while after < len(arguments) and not _is_pair(arguments[after]) and not arguments[after].startswith("-"):
        after += 1
    return f"if it belongs to {arguments[first]}, quote the whole: {shlex.quote(' '.join(arguments[first:after]))}"


def _is_pair(argument: str) -> bool:
    name, equals, _ = argument.partition("=")
    return bool(equals) and _NAME.fullmatch(name) is not None


def _value(argument: str, text: str, key: Key | None) -> Any:
    if key is not None and key.is_list and _holds_text(key) and (items := _items(text)) is not None:
        return items
    try:
        (override,) = OverridesParser.create().parse_overrides([f"key={text}"])
    except HydraException:
        if text.startswith(_OPENS):
            raise UserError(
                f"cannot read '{argument}' as key=value: close its brackets and quotes, or put the text that it is "
                f"into quotes, {shlex.quote(_quoted(argument))}"
            ) from None
        return text
    if override.is_sweep_override():
        if key is not None and key.is_text:
            return text
        brackets = key is not None and key.is_list
        raise UserError(f"'{argument}' has several values: give {'a list, [a,b]' if brackets else 'one value'}")
    value = override.value()
    if key is not None and key.is_text and value is not None and not isinstance(value, str | list | dict):
        return text  # 007 and 1e5 are names, too
    return value


def _items(text: str) -> list[str] | None:
    """The items of a plain list of texts; None if the grammar is to read it."""
    inner = text[1:-1]
    if not (text.startswith("[") and text.endswith("]")) or _OF_GRAMMAR.search(inner):
        return None
    items = [item.strip() for item in inner.split(",")]
    return items if all(items) else None


def _holds_text(key: Key) -> bool:
    return typing.get_args(key.type) == (str,)


def _quoted(argument: str) -> str:
    name, _, text = argument.partition("=")
    escaped = text.replace('"', '\\"')
    return f'{name}="{escaped}"'


def home_path(name: str, value: Any) -> Any:
    """A path in which `~` and `~user` at the begin are that home. Other values are left as they are.

    Raises UserError, which names the key, if there is no such home.
    """
    if not isinstance(value, str) or not value.startswith("~"):
        return value
    try:
        return at_home(value)
    except UserError as error:
        raise UserError(f"{name}={error}") from None
