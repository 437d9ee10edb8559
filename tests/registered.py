"""A choice that is registered for the time of a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from s2l_nemo.registry import Registry

Choice = TypeVar("Choice")


@contextmanager
def registered(registry: Registry[Choice], name: str, choice: Choice) -> Iterator[Choice]:
    """Registers `choice` as anybody may, and takes it out again."""
    added = registry.register(name, choice)
    try:
        yield added
    finally:
        del registry._choices[name]
