"""Loads a reward function of the user by its import path, `rewards.fn=package.module:function`."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from s2l_nemo.errors import UserError
from s2l_nemo.registry import Wanted, from_path

RewardFunction = Callable[[str, str, str], Any]  # fn(response, answer, prompt) -> a finite number


def load_function(path: str, arguments: int = 3) -> Callable[..., Any]:
    """The function at "package.module:function" of so many texts. Raises UserError if there is none that takes them."""
    function: Callable[..., Any] = from_path("rewards.fn", path, Wanted(callable, "a function"))
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some of those that are written in C have none
        return function
    try:
        signature.bind(*[""] * arguments)
    except TypeError as error:
        raise UserError(
            f"rewards.fn={path} takes {signature}, must take (response, answer, prompt): {error}"
        ) from error
    return function


def source_of(path: str) -> str | None:
    """SHA-256 of the file that the function of a loaded import path comes from; None if it has none of text.

    What that file imports is not covered.
    """
    module = sys.modules[path.partition(":")[0]]
    function = inspect.unwrap(getattr(module, path.partition(":")[2]))
    home = sys.modules.get(getattr(function, "__module__", None) or "", module)
    file = getattr(home, "__file__", None)
    if file is None or not Path(file).is_file():
        return None
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()
