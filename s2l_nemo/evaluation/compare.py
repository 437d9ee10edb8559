"""Results of several models on the same problems: differences with paired bootstrap intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2l_nemo.errors import UserError
from s2l_nemo.measures.statistics import paired_bootstrap

Results = dict[str, dict[str, Any]]  # benchmark -> content of BENCH.json

_NEEDED = ("name", "benchmark", "problems", "pass@1", "pass@k", "correct", "ids")


@dataclass(frozen=True)
class Difference:
    """pass@1 of two models on one benchmark; `gain` = second - first with its 95 % interval over problems."""

    benchmark: str
    problems: int
    first: float
    second: float
    gain: float
    low: float
    high: float

    @property
    def sign(self) -> str:
        """`+` or `-` where the interval excludes 0, else `~`."""
        return "+" if self.low > 0 else "-" if self.high < 0 else "~"


def load_results(path: Path) -> Results:
    """The results in a folder result/NAME_TIME, in a folder that has one called `result`, or in one BENCH.json.

    Raises UserError where there is none, or a file is not as recipes/evaluate.py writes it.
    """
    if not path.exists():
        raise UserError(f"{path} is not there: give a folder result/NAME_TIME or a file BENCH.json")
    folder = path / "result" if (path / "result").is_dir() else path
    files = [path] if path.is_file() else sorted(folder.glob("*.json"))
    contents = [_load(file) for file in files if file.name != "summary.json"]
    if not contents:
        raise UserError(f"{path} holds no BENCH.json: give a folder result/NAME_TIME, or DIR/result after a rescore")
    return {content["benchmark"]: content for content in contents}


def differences(first: Results, second: Results, seed: int = 0) -> list[Difference]:
    """One difference a benchmark. Raises UserError where benchmarks or problems are not the same."""
    if first.keys() != second.keys():
        only = sorted(first.keys() ^ second.keys())
        raise UserError(
            f"{label(first)} and {label(second)} have different benchmarks: {', '.join(only)} only in one of them; "
            "give two files BENCH.json to compare one benchmark"
        )
    return [_difference(first[name], second[name], seed) for name in first]


def label(results: Results) -> str:
    """What the results are called."""
    return str(next(iter(results.values()))["name"])


def load_all(paths: Sequence[Path]) -> list[Results]:
    """Several results; where two have the same name, all are called by their paths."""
    loaded = [load_results(path) for path in paths]
    if len(set(map(label, loaded))) < len(loaded):
        for path, results in zip(paths, loaded, strict=True):
            for content in results.values():
                content["name"] = str(path)
    return loaded


def _difference(first: dict[str, Any], second: dict[str, Any], seed: int) -> Difference:
    name = first["benchmark"]
    if first["ids"] != second["ids"]:
        raise UserError(
            f"{name}: {first['name']} has {len(first['ids'])} problems and {second['name']} {len(second['ids'])}, and "
            "they are not the same in the same order; evaluate both on the same file with the same evaluate.limit"
        )
    before, after = (_means(one["correct"]) for one in (first, second))
    gain, low, high = paired_bootstrap(before, after, seed=seed)
    return Difference(name, len(before), first["pass@1"]["mean"], second["pass@1"]["mean"], gain, low, high)


def _means(correct: list[list[int]]) -> list[list[float]]:
    return [[sum(row) / len(row)] for row in correct]


def _load(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{file} cannot be read as JSON ({error}): give a BENCH.json of recipes/evaluate.py") from None
    absent = [key for key in _NEEDED if not isinstance(content, dict) or key not in content]
    if absent:
        raise UserError(f"{file} is no result of recipes/evaluate.py: it has no {absent[0]!r}")
    rows, ids = content["correct"], content["ids"]
    are_lists = isinstance(rows, list) and isinstance(ids, list)
    if not are_lists or not 0 < len(rows) == len(ids) or not all(map(_is_row, rows)):
        raise UserError(f"{file} is damaged: 'correct' must hold a list of 0 and 1 for each of 'ids'")
    curve = content["pass@k"]
    if not isinstance(curve, dict) or not all(map(_is_interval, [content["pass@1"], *curve.values()])):
        raise UserError(f"{file} is damaged: 'pass@1' and all of 'pass@k' must have mean, low and high")
    return dict(content)


def _is_interval(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), int | float) for key in ("mean", "low", "high"))


def _is_row(row: Any) -> bool:
    return isinstance(row, list) and bool(row) and all(value in (0, 1) for value in row)
