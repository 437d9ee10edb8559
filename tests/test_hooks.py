"""docs/hooks.md lists every registry and the reward function, each with a test that is there."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from s2l_nemo.algorithm.losses.aggregation import LossScale
from s2l_nemo.algorithm.losses.policy import PolicyLoss
from s2l_nemo.algorithm.options import ADVANTAGES, AGGREGATIONS, IMPORTANCE, AlgorithmConfig
from s2l_nemo.algorithm.schedule import SCHEDULES
from s2l_nemo.engines.kinds import ENGINES
from s2l_nemo.models.families import FAMILIES
from s2l_nemo.registry import Registry
from s2l_nemo.types import Source
from tests.algorithm.by_hand import make_batch

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")
LOSSES = (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")
REGISTRIES: list[Registry[Any]] = [IMPORTANCE, AGGREGATIONS, ADVANTAGES, SCHEDULES, ENGINES, FAMILIES]


def rows(page: str) -> list[list[str]]:
    """The cells of each line of a table, without its head."""
    _, _, body = page.partition("|---")
    lines = [line for line in body.splitlines() if line.startswith("| `")]
    return [[cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_every_hook_is_in_the_table() -> None:
    assert {row[0] for row in rows(PAGE)} == {registry.key for registry in REGISTRIES} | {"rewards.fn"}


def test_every_registry_of_the_project_is_known_here() -> None:
    found = set()
    for path in (ROOT / "s2l_nemo").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Registry":
                assert isinstance(node.args[0], ast.Constant)
                found.add(node.args[0].value)
    assert found == {registry.key for registry in REGISTRIES}


def test_a_path_is_taken_where_the_table_says_so() -> None:
    by = {row[0]: row[1] for row in rows(PAGE)}
    for registry in REGISTRIES:
        assert (registry.wanted is not None) == ("path" in by[registry.key]), registry.key
        assert "register" in by[registry.key]


@pytest.mark.parametrize("row", rows(PAGE), ids=lambda row: row[0])
def test_the_test_that_shows_a_hook_is_there(row: list[str]) -> None:
    path, name = row[-1].split("::")
    functions = ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
    assert name in {node.name for node in functions if isinstance(node, ast.FunctionDef)}


def test_the_rule_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "rule_of_the_page.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    options = AlgorithmConfig(importance="rule_of_the_page:LongResponsesLess", importance_cap=400.0, kl_coef=0.0)
    batch = make_batch([[1, 1, 1, 1.0], [1, 0, 0, 0]], [1.0, 2.0], [Source.LEARNER] * 2)
    loss, _ = PolicyLoss.of(options)(torch.zeros(2, 4), batch, LossScale(5, 2, 4))
    assert loss.item() == pytest.approx(-(4 * 250 + 2 * 400) / 5)


def test_every_rule_is_in_the_table_of_losses() -> None:
    assert sorted(row[0] for row in rows(LOSSES)) == sorted(IMPORTANCE.names())


def test_the_table_of_losses_names_the_keys_that_a_rule_reads() -> None:
    for name, *_, keys in rows(LOSSES):
        named = {key.strip().strip("`") for key in keys.split(",") if key.strip()}
        assert named == {one.name for one in fields(cast(Any, IMPORTANCE[name]))}, name
