"""docs/reliability.md: 25 promises, each with tests that exist, and the findings, each with a test of its number."""

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
        assert any(f"_r{int(number):02}_" in name for _, name in NAMED.findall(tests)), f"row {number} names no test"


NUMBERS = re.compile(r"def test_((?:[cf]\d\d_)+)|\"([cf]\d\d) ")  # of tests and of cases in tables


def numbered() -> set[str]:
    """The findings that a test or a case has in its name."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    found = [match for text in texts for match in NUMBERS.findall(text)]
    return {name for names, case in found for name in [*names.strip("_").split("_"), case] if name}


def test_every_finding_of_training_and_kind_of_conversion_has_a_test_of_its_number() -> None:
    wanted = {f"f{n:02}" for n in range(1, 33)} | {f"c{n:02}" for n in range(1, 24)}
    assert numbered() == wanted


def test_the_page_has_every_finding() -> None:
    rows = re.findall(r"^\| (f\d\d.*) \| .+ \|$", (ROOT / "docs/reliability.md").read_text(encoding="utf-8"), re.M)
    assert sorted(re.findall(r"\bf\d\d\b", " ".join(rows))) == [f"f{n:02}" for n in range(1, 33)]
