"""Loads a reward function of the user by its import path, `rewards.fn=package.module:function`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from s2l_nemo.registry import Wanted, from_path

RewardFunction = Callable[[str, str, str], Any]  # fn(response, answer, prompt) -> a finite number


def load_function(path: str) -> RewardFunction:
    """The function at "package.module:function". Raises UserError if there is none."""
    function: RewardFunction = from_path("rewards.fn", path, Wanted(callable, "a function"))
    return function
