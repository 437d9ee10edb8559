"""Checks of types, and the error for calls that the real library would accept and do wrong."""

from __future__ import annotations

import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


class Misuse(RuntimeError):
    """A call that does not fail in the real library, but has a wrong result."""


def check_types(where: str, owner: type, values: dict[str, Any]) -> None:
    """Raises TypeError where a value does not fit the annotation of that name in `owner`."""
    hints = get_type_hints(owner)
    for name, value in values.items():
        if not _fits(value, hints[name]):
            raise TypeError(f"{where}: {name} must be {hints[name]}, got {value!r} of type {type(value).__name__}")


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if origin is list:
        return isinstance(value, list) and all(_fits(element, arguments[0]) for element in value)
    if hint in (int, float) and isinstance(value, bool):
        return False
    if hint is float:
        return isinstance(value, (int, float))
    return isinstance(value, hint)
