"""Checks of types, and the error for calls that the real library would accept and do wrong."""

from __future__ import annotations

import types
from typing import Any, Literal, Union, get_args, get_origin


class Misuse(RuntimeError):
    """A call that does not fail in the real library, but has a wrong result or never ends."""


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type. A bool is no number, an int is a float."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin is list:
        return isinstance(value, list) and all(fits(element, arguments[0]) for element in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            fits(key, arguments[0]) and fits(element, arguments[1]) for key, element in value.items()
        )
    if hint in (int, float) and isinstance(value, bool):
        return False
    if hint is float:
        return isinstance(value, (int, float))
    return isinstance(value, hint)
