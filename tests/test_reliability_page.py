"""The table of docs/reliability.md: 25 promises, each with tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = re.findall(r"^\| (\d+) \| (.+) \| (.+) \|$", (ROOT / "docs/reliability.md").read_text(encoding="utf-8"), re.M)
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_every_promise_names_tests_that_exist() -> None:
    rows = [row for row in TABLE if NAMED.search(row[2])]
    assert [int(number) for number, _, _ in rows] == list(range(1, 26))
    for number, _, tests in rows:
        for file, name in NAMED.findall(tests):
            functions = {node.name for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body
                         if isinstance(node, ast.FunctionDef)}  # fmt: skip
            assert name in functions, f"row {number}: {file} has no {name}"
