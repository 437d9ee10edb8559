"""Loads a reward function of the user by its import path, `rewards.fn=package.module:function`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from s2l_nemo.errors import UserError

RewardFunction = Callable[[str, str, str], Any]  # fn(response, answer, prompt) -> a finite number


def load_function(path: str) -> RewardFunction:
    """The function at "package.module:function". Raises UserError if there is none."""
    module_name, colon, name = path.partition(":")
    if not (module_name and colon and name):
        raise UserError(f"rewards.fn={path} is no import path: give package.module:function")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise UserError(f"rewards.fn={path}: importing {module_name} fails: {error}") from error
        raise UserError(f"rewards.fn={path}: there is no module {error.name}; is its folder in PYTHONPATH?") from error
    function: RewardFunction | None = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"rewards.fn={path}: {module_name} has no function {name}")
    return function
