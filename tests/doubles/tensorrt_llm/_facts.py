"""What each call takes, read from facts.json: the signatures of the double are made here and nowhere else."""

from __future__ import annotations

import functools
import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_type_hints

from tensorrt_llm._misuse import fits

FACTS: dict[str, Any] = json.loads((Path(__file__).parent / "facts.json").read_text())
VERSION = os.environ.get("TENSORRT_LLM_DOUBLE", "1.2")  # a key of the facts' versions

# What the texts of types and factories mean. The classes of the double add themselves.
NAMES: dict[str, Any] = {"Any": Any, "Literal": Literal, "Path": Path, "list": list, "dict": dict}


class Refused(TypeError, ValueError):
    """A call that the signature forbids. Real functions raise TypeError, pydantic models a ValueError."""


def arguments(call: str, version: str | None = None) -> dict[str, dict[str, Any]]:
    """Name and facts of each argument, in order, with those of the call that `call` hands its own to."""
    facts = FACTS["calls"][call]
    own = {
        name: argument
        for name, argument in facts["arguments"].items()
        if (version or VERSION) in argument.get("versions", FACTS["versions"])
    }
    return own | (arguments(facts["also"], version) if "also" in facts else {})


def bind(call: str, args: Sequence[Any], kwargs: Mapping[str, Any], version: str | None = None) -> dict[str, Any]:
    """Every argument of a call with its value. Raises Refused for an unknown name, a wrong type or a missing value."""
    known = arguments(call, version)
    unknown = sorted(kwargs.keys() - known.keys())
    if unknown:
        raise Refused(f"{call}: {', '.join(unknown)}: extra inputs are not permitted")
    hints = _hints(known)
    try:
        given = _signature(call, known).bind(*args, **kwargs).arguments
    except TypeError as error:
        raise Refused(f"{call}: {error}") from error
    for name, value in given.items():
        if not fits(value, hints[name]):
            raise Refused(f"{call}: {name} must be {hints[name]}, got {value!r} of type {type(value).__name__}")
    return {name: given[name] if name in given else _default(facts, hints[name]) for name, facts in known.items()}


def takes(call: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Gives a method the signature of the facts: it gets every argument by its name."""

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
            return method(self, **bind(call, args, kwargs))

        return checked

    return decorate


class Record:
    """A configuration or a result: its attributes are the arguments of a call, the one that has its name."""

    call = ""

    def __init_subclass__(cls) -> None:
        NAMES[cls.__name__] = cls
        cls.call = cls.call or cls.__name__

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.__dict__.update(bind(self.call, args, kwargs))
        self.check()

    def check(self) -> None:
        """Raises ValueError for values that do not fit each other or their range."""

    # The next two tell the type checker, which does not know the facts, that there are attributes.
    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{type(self).__name__} has no {name}")

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)


def _hints(known: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    texts = {name: facts["type"] for name, facts in known.items()}
    return get_type_hints(type("Call", (), {"__annotations__": texts}), localns=NAMES)


def _signature(call: str, known: Mapping[str, dict[str, Any]]) -> inspect.Signature:
    only = inspect.Parameter.KEYWORD_ONLY
    kind = only if FACTS["calls"][call].get("keyword_only") else inspect.Parameter.POSITIONAL_OR_KEYWORD
    own = FACTS["calls"][call]["arguments"]
    required = {name: "default" not in facts and "factory" not in facts for name, facts in known.items()}
    parameters = [
        inspect.Parameter(
            name,
            kind if name in own else only,
            default=inspect.Parameter.empty if required[name] else None,
        )
        for name in known
    ]
    return inspect.Signature(parameters)


def _default(facts: Mapping[str, Any], hint: Any) -> Any:
    if "factory" in facts:
        return NAMES[facts["factory"]]()
    default = facts["default"]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(default)
    return tuple(default) if hint is tuple else default
