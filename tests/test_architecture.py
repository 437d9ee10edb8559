"""The floors of the house: who may import whom, how large things may be, and what stays out of light commands."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture import circles, faults, imports_of, named_imports, read_sources, room_of, too_large

ROOT = Path(__file__).resolve().parent.parent
# Each room with the rooms that it may use. Lower floors first: a room uses only rooms above its own line.
ROOMS: dict[str, set[str]] = {
    # floor 1: plain data
    "errors": set(),
    "arguments": {"errors"},
    "registry": {"errors"},
    "fields": {"registry"},
    "files": {"errors"},
    "plain_yaml": set(),
    "types": set(),
    "splitmix": set(),
    "hub": {"errors", "files"},
    # floor 2: pure functions, a model's files, engines behind one protocol, the keys
    "measures": set(),
    "probes": {"measures"},
    "algorithm": {"errors", "fields", "registry", "splitmix", "types"},
    "models.formats": {"errors", "files", "plain_yaml"},
    "models": {"errors", "models.formats", "registry"},
    "models.checkpoints": {"errors", "models", "models.formats"},
    "models.open": {"errors", "hub", "models", "models.checkpoints"},
    "engines": {
        "errors", "fields", "models", "models.checkpoints", "models.formats", "models.open", "registry", "splitmix",
        "types",
    },
    "config": {
        "algorithm", "arguments", "engines", "errors", "fields", "hub", "models", "models.open", "plain_yaml", "types",
    },
    "planner": {"algorithm", "config", "engines", "errors", "fields", "hub", "models", "models.open"},
    # floor 3: what touches processes, devices and runs
    "data": {"config", "errors", "files", "hub", "types"},
    "rewards": {"config", "data", "errors", "registry"},
    "actor": {
        "algorithm", "config", "errors", "models", "models.checkpoints", "models.formats", "models.open", "types",
    },
    "records": {"config", "errors", "files", "hub", "types"},
    "planner.simulation": {"algorithm", "config", "engines", "errors", "fields", "models", "planner", "records"},
    "platform": {"errors"},
    "evaluation": {
        "config", "data", "engines", "errors", "files", "measures", "models", "models.checkpoints",
        "models.formats", "models.open", "records", "rewards", "types",
    },
    "probes.measuring": {
        "config", "data", "engines", "errors", "evaluation", "files", "models.open", "probes", "records",
        "types",
    },
    # a frozen explorer's rollouts: sampled ahead of training, and read in it
    "store": {"config", "engines", "errors", "files", "splitmix", "types"},
    "store.sampling": {
        "algorithm", "config", "data", "engines", "errors", "evaluation", "files", "models", "models.open", "records",
        "rewards", "store", "types",
    },
    "trainer": {
        "actor", "algorithm", "config", "data", "engines", "errors", "evaluation", "files", "hub", "measures",
        "models", "models.open", "platform", "records", "rewards", "store", "types",
    },
    # the paper's experiments as child processes of the recipes, and its claims
    "reproduction": {
        "config", "data", "errors", "evaluation", "files", "measures", "platform", "records", "trainer",
    },
    "reproduction.report": {
        "errors", "evaluation", "files", "measures", "plain_yaml", "records", "reproduction", "trainer",
    },
    # families that are trained on this machine
    "toy_worlds": {
        "config", "data", "errors", "evaluation", "files", "measures", "models.open", "rewards", "types",
    },
}  # fmt: skip
FOLDERS = ("s2l_nemo", "recipes", "tools", "benchmarks")
TESTS = sorted((ROOT / "tests").rglob("*.py"))
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
SOURCES = read_sources(ROOT)


def test_the_house_is_in_order() -> None:
    assert faults(SOURCES, ROOMS) == []


@pytest.mark.parametrize("path", FILES + TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    assert too_large(path) == []


def test_nothing_imports_a_command() -> None:
    for path in FILES:
        names = {name.split(".")[0] for name in named_imports(ast.parse(path.read_text(encoding="utf-8")))}
        assert not names & {"recipes", "tools", "benchmarks", "tests"}, path


def changed(**added: str) -> dict[str, ast.Module]:
    """The real house with more code in some modules; `__` in a name stands for a dot."""
    sources = dict(SOURCES)
    for name, code in added.items():
        module = name.replace("__", ".")
        before = sources[module].body if module in sources else []
        sources[module] = ast.Module([*before, *ast.parse(code).body], [])
    return sources


@pytest.mark.parametrize(
    ("added", "fault"),
    [
        ({"files": "import s2l_nemo.types"}, "files uses types without permission"),
        ({"measures__statistics": "def f():\n    from s2l_nemo.trainer import loop"}, "measures uses trainer without"),
        ({"config__keys": "from s2l_nemo.config.load import load_config"}, "circle: config.keys -> config.load"),
        ({"config__keys": "name = 's2l_nemo.config.load:load_config'"}, "circle: config.keys -> config.load"),
        ({"new_room": "x = 1"}, "new_room is in no room"),
        ({"rewards__answers": "import megatron.core"}, "rewards.answers imports megatron"),
    ],
)
def test_a_fault_that_is_added_is_found(added: dict[str, str], fault: str) -> None:
    assert any(line.startswith(fault) for line in faults(changed(**added), ROOMS))


@pytest.mark.parametrize(
    ("room", "permission", "fault"),
    [
        ("measures", "errors", "measures may use errors and does not"),
        ("files", "trainer", "files may use trainer, which is not below it"),
        ("files", "nothing", "files may use nothing, which is no room"),
    ],
)
def test_a_wrong_permission_is_found(room: str, permission: str, fault: str) -> None:
    rooms = {**ROOMS, room: ROOMS[room] | {permission}}
    assert fault in faults(SOURCES, rooms)


def test_circles_by_hand() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set(), "f": {"f"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_the_smallest_room_counts() -> None:
    assert room_of("models.formats.rows", ["models", "models.formats"]) == "models.formats"
    assert room_of("modelsx", ["models"]) is None
    assert imports_of({"a": ast.parse("import s2l_nemo.b, s2l_nemo.a, torch"), "b": ast.parse("")})["a"] == {"b"}


def test_what_is_too_large_is_found(tmp_path: Path) -> None:
    path = tmp_path / "large.py"
    path.write_text("def f():\n" + "    x = 1\n" * 60 + "y = 2\n" * 400)
    assert too_large(path) == ["large.py has 461 lines", "large.py: f has 61 lines"]


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        (
            [
                "trainer.start", "trainer.setup", "algorithm.losses.policy", "algorithm.advantages",
                "algorithm.batching",
            ],
            {"transformers", "datasets", "matplotlib"},
        ),
        (["config.load", "config.checks", "planner.plan"], {"torch", "transformers"}),
        # the runner waits beside its jobs for hours
        (["reproduction.plan", "reproduction.runner", "reproduction.table"], {"torch", "transformers", "numpy"}),
        (["planner.simulation.compare", "planner.simulation.calibration"], {"torch", "transformers"}),
        # conversion starts in a quarter of a second
        (
            [
                "models.checkpoints.command", "models.checkpoints.to_nemo", "models.checkpoints.to_hugging_face",
                "models.checkpoints.open", "models.checkpoints.compare", "models.formats.manifest",
            ],
            {"torch", "transformers"},
        ),
    ],
)  # fmt: skip
def test_light_imports_stay_light(modules: list[str], absent: set[str]) -> None:
    heavy = {"nemo", "nemo_aligner", "megatron", "lightning"} | absent
    code = "".join(f"import s2l_nemo.{module}\n" for module in modules)
    code += "import sys\nprint(' '.join(sorted({name.split('.')[0] for name in sys.modules})))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not set(loaded.split()) & heavy
