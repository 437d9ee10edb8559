"""Fixtures: the double in place of tensorrt_llm, and models for it."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines.random_qwen3 import build_model

DOUBLES = Path(__file__).resolve().parents[2] / "doubles"


@pytest.fixture(scope="module", autouse=True)
def double() -> Iterator[Any]:
    """tensorrt_llm is the double, in an environment without a launcher's variables, for the tests of a file."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(("PMI", "OMPI", "SLURM"))]:
        del os.environ[name]
    sys.path.insert(0, str(DOUBLES))
    import tensorrt_llm

    yield tensorrt_llm
    sys.path.remove(str(DOUBLES))
    borrowed = ("tensorrt_llm", "ray", "s2l_nemo.engines.tensorrt_llm.w")
    for name in [name for name in sys.modules if name.startswith(borrowed)]:
        del sys.modules[name]
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def fresh_ray(double: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """No Ray yet: a process has one engine and its Ray, and a test may leave them open."""
    del double  # ray is found beside it
    import ray

    monkeypatch.setattr(tempfile, "tempdir", "/tmp")  # short enough for Ray
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qwen3")
    build_model(seed=0).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def tied_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tied")
    build_model(tied=True, seed=0).save_pretrained(path)
    return path
