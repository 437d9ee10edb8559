"""Settings of all tests, and which of them need NeMo."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from s2l_nemo.config import load

# Read when torch is imported, as in the recipes: threads that spin would take the cores from the other processes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Tests are of the CPU layer, also where there is a GPU; CUDA_VISIBLE_DEVICES=0 shows it to those that want one.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the distributed tests. Files with tests that need NeMo, which are the longest, come first."""
    for item in items:
        if item.nodeid.startswith("tests/distributed/"):
            item.add_marker(pytest.mark.nemo)
    long = {item.path for item in items if item.get_closest_marker("nemo")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session", autouse=True)
def conf_is_composed_once() -> None:
    """Keeps what Hydra makes of conf/, which no test changes: hundreds of tests ask for it, a quarter second each."""
    compose, ours = load._compose, Path(__file__).resolve().parent.parent / "conf"

    @functools.cache
    def composed_once(name: str, groups: tuple[str, ...]) -> dict[Any, Any]:
        return compose(ours, name, list(groups))

    def composed(conf_dir: Path, config_name: str, groups: list[str]) -> dict[Any, Any]:
        if conf_dir.resolve() != ours:
            return compose(conf_dir, config_name, groups)
        return composed_once(config_name, tuple(groups))

    load._compose = composed
