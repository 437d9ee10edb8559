"""Named choices: imported when first asked for, added from outside, refused in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from s2l_nemo.errors import UserError
from s2l_nemo.registry import Registry


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
