"""The floors of the house: who may import whom, how large a room may be, and what stays out of light commands."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Each room with the rooms of this project that it may use, besides `errors`. Lower floors first.
ROOMS: dict[str, set[str]] = {
    # floor 1: plain data
    "errors": set(),
    "files": set(),
    "types": set(),
    "config": {"schedule"},
    # floor 2: the algorithm, pure functions
    "schedule": set(),
    "advantages": {"types"},
    "loss": {"types", "config"},
    "batching": {"types"},
    "statistics": set(),
    "diversity": {"types"},
    # floor 3: what touches files, processes and models
    "data": {"types", "config", "files"},
    "rewards": {"types", "config", "data"},
    "rollout": {"types"},
    "convert": {"types", "config", "files"},
    "serving": {"types", "config", "convert", "engines", "rollout", "files"},
    "engines": {"types", "config", "convert", "rollout"},
    "platform": set(),
    "report": {"types", "files"},
    "actor": {"types", "config", "loss", "convert", "data"},
    "evaluation": {
        "types", "config", "files", "data", "rewards", "rollout", "convert", "engines",
        "report", "statistics", "diversity",
    },
    "trainer": {
        "types", "config", "schedule", "advantages", "loss", "batching", "statistics", "diversity",
        "files", "data", "rewards", "rollout", "convert", "engines", "serving", "platform", "report", "actor",
    },
}  # fmt: skip
HEAVY = {"nemo", "nemo_aligner", "megatron", "lightning"}
MAY_IMPORT_NEMO = {"actor", "platform"}
FOLDERS = ("s2l_nemo", "recipes", "tools", "benchmarks")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def imported(path: Path) -> Iterator[str]:
    """Full names of all modules that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "s2l_nemo")


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "s2l_nemo").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_stay_on_lower_floors(path: Path) -> None:
    if (path.is_relative_to(ROOT / "s2l_nemo") and path.name != "__init__.py") or path.parent != ROOT / "s2l_nemo":
        names = set(imported(path))
        if path.is_relative_to(ROOT / "s2l_nemo"):
            room = room_of(path)
            used = {name.split(".")[1] for name in names if name.startswith("s2l_nemo.")}
            above = used - {room, "errors"} - ROOMS[room]
            assert not above, f"{room} must not use {sorted(above)}"
        else:
            room = path.parent.name
            assert not any(name.split(".")[0] in ("recipes", "tools", "tests") for name in names)
        if room not in MAY_IMPORT_NEMO:
            assert not {name.split(".")[0] for name in names} & HEAVY


def test_every_room_has_a_floor() -> None:
    rooms = {path.name.removesuffix(".py") for path in (ROOT / "s2l_nemo").iterdir() if not path.name.startswith("_")}
    assert rooms == set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") < 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 60, f"{node.name} has {node.end_lineno - node.lineno + 1} lines"


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import s2l_nemo.trainer.start", HEAVY | {"transformers", "datasets", "matplotlib"}),
        (
            "import s2l_nemo.config.load, s2l_nemo.config.checks, s2l_nemo.config.plan",
            HEAVY | {"torch", "transformers"},
        ),
        (
            "import s2l_nemo.convert.command, s2l_nemo.convert.to_nemo, s2l_nemo.convert.to_hugging_face, "
            "s2l_nemo.convert.open, s2l_nemo.convert.compare, s2l_nemo.convert.manifest",
            HEAVY | {"torch", "transformers"},  # conversion starts in a quarter of a second
        ),
        ("import s2l_nemo.loss, s2l_nemo.advantages, s2l_nemo.batching", HEAVY | {"transformers", "datasets"}),
    ],
)
def test_light_imports_stay_light(statement: str, absent: set[str]) -> None:
    code = f"{statement}\nimport sys\nprint(' '.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not set(loaded.split()) & absent
