"""Named choices: imported when first asked for, added from outside, refused in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from s2l_nemo.errors import UserError
from s2l_nemo.registry import Registry, Wanted


@pytest.fixture
def registry() -> Registry[int]:
    return Registry("algorithm.colour", {"red": 1, "blue": 2})


def test_a_choice_is_imported_when_it_is_first_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "late_choice.py").write_text("LOADED = []\nLOADED.append(1)\nclass Choice: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "late_choice", raising=False)
    registry: Registry[type] = Registry("algorithm.colour", {"late": "late_choice:Choice", "int": int})
    assert "late" in registry
    assert registry.names() == ["late", "int"]
    assert registry["int"] is int
    assert "late_choice" not in sys.modules
    choice = registry["late"]
    assert choice is sys.modules["late_choice"].Choice
    sys.modules["late_choice"].Choice = object  # type: ignore[attr-defined]
    assert registry["late"] is choice


def test_choices_are_added_from_anywhere(registry: Registry[int]) -> None:
    assert registry.register("green", 3) == 3
    assert registry["green"] == 3
    assert registry.names() == ["red", "blue", "green"]


def test_a_name_is_given_once(registry: Registry[int]) -> None:
    registry.register("green", 3)
    for name in ("red", "green"):
        with pytest.raises(ValueError, match=f"algorithm.colour={name} is registered already: choose another name"):
            registry.register(name, 4)
    assert (registry["red"], registry["green"]) == (1, 3)


def test_an_unknown_name_is_refused_with_what_is_known(registry: Registry[int]) -> None:
    with pytest.raises(UserError) as caught:
        registry["pink"]
    assert str(caught.value) == "algorithm.colour=pink is unknown: choose one of red, blue"


@pytest.mark.parametrize("value", ["pink", None, 3, ["red"], {"red": 1}])
def test_what_is_no_name_is_not_in_it(registry: Registry[int], value: object) -> None:
    assert value not in registry


def test_two_registries_do_not_share_names() -> None:
    choices = {"red": 1}
    first, second = Registry("a", choices), Registry("b", choices)
    first.register("blue", 2)
    assert "blue" not in second
    assert choices == {"red": 1}


OWN = """
from dataclasses import dataclass
answer = 42
class Plain: pass
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of a user that is in PYTHONPATH, and two that cannot be imported."""
    (tmp_path / "own_choices.py").write_text(OWN)
    (tmp_path / "own_broken.py").write_text("def f(:\n")
    (tmp_path / "own_fails.py").write_text("import own_absent\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("own_choices", "own_broken", "own_fails"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "own_choices"


@pytest.fixture
def open_registry() -> Registry[int]:
    return Registry("algorithm.colour", {"red": 1}, Wanted(lambda found: isinstance(found, int), "an integer"))


def test_an_import_path_is_a_choice(open_registry: Registry[int], own_module: str) -> None:
    assert f"{own_module}:answer" in open_registry
    assert own_module not in sys.modules
    assert open_registry[f"{own_module}:answer"] == 42
    assert open_registry.names() == ["red"]
    assert open_registry["red"] == 1


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("own_choices:", "is no import path: give package.module:name"),
        (":answer", "is no import path: give package.module:name"),
        ("no_such.module:f", "there is no module no_such; is its folder in PYTHONPATH?"),
        ("own_choices.inner:f", "there is no module own_choices.inner; is its folder in PYTHONPATH?"),
        ("own_choices:missing", "own_choices has no missing"),
        ("own_choices:Plain", "Plain is <class 'own_choices.Plain'>, must be an integer"),
        ("own_fails:f", "importing own_fails fails: ModuleNotFoundError: No module named 'own_absent'"),
        ("own_broken:f", "importing own_broken fails: SyntaxError: invalid syntax (own_broken.py, line 1)"),
    ],
)
def test_an_import_path_that_leads_nowhere_is_one_line(open_registry: Registry[int], path: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        open_registry[path]
    told = str(caught.value)
    assert told.startswith(f"algorithm.colour={path}")
    assert told.endswith(message)
    assert "\n" not in told


def test_a_registry_takes_paths_only_if_it_says_what_it_wants(registry: Registry[int], own_module: str) -> None:
    assert f"{own_module}:answer" not in registry
    with pytest.raises(UserError, match="is unknown: choose one of red, blue"):
        registry[f"{own_module}:answer"]
    assert own_module not in sys.modules


def test_an_unknown_name_is_told_of_paths(open_registry: Registry[int]) -> None:
    with pytest.raises(UserError) as caught:
        open_registry["pink"]
    assert str(caught.value) == "algorithm.colour=pink is unknown: choose one of red, package.module:name"
