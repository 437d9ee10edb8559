"""Results of several models on the same problems: differences with paired bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from s2l_nemo.errors import UserError
from s2l_nemo.evaluation.results import BenchmarkResult, read_result
from s2l_nemo.measures.statistics import paired_bootstrap

Results = dict[str, BenchmarkResult]  # by benchmark, of one model


@dataclass(frozen=True)
class Difference:
    """pass@1 of two models on one benchmark. `gain` is second - first, with its 95 % interval over problems."""

    benchmark: str
    problems: int
    first: float
    second: float
    gain: float
    low: float
    high: float

    @property
    def sign(self) -> str:
        """`+` or `-` if the interval excludes 0, else `~`."""
        return "+" if self.low > 0 else "-" if self.high < 0 else "~"


def load_results(path: Path) -> Results:
    """The results of one model. `path` is a folder result/NAME_TIME, a folder that has one called `result`, or a file
    BENCH.json.

    Raises UserError if there is no result, or a file is not as recipes/evaluate.py writes it.
    """
    if not path.exists():
        raise UserError(f"{path} is not there: give a folder result/NAME_TIME or a file BENCH.json")
    folder = path / "result" if (path / "result").is_dir() else path
    files = [path] if path.is_file() else sorted(folder.glob("*.json"))
    found = [read_result(file) for file in files if file.name != "summary.json"]
    if not found:
        raise UserError(f"{path} holds no BENCH.json: give a folder result/NAME_TIME, or DIR/result after a rescore")
    return {one.benchmark: one for one in found}


def differences(first: Results, second: Results, seed: int = 0) -> list[Difference]:
    """One difference for each benchmark. Raises UserError if benchmarks or problems are not the same."""
    if first.keys() != second.keys():
        only = sorted(first.keys() ^ second.keys())
        raise UserError(
            f"{label(first)} and {label(second)} have different benchmarks: {', '.join(only)} only in one of them; "
            "give two files BENCH.json to compare one benchmark"
        )
    return [_difference(first[name], second[name], seed) for name in first]


def label(results: Results) -> str:
    """What the results are called."""
    return next(iter(results.values())).name


def load_all(paths: Sequence[Path]) -> list[Results]:
    """The results of several models. If two have the same name, all are called by their paths."""
    loaded = [load_results(path) for path in paths]
    if len(set(map(label, loaded))) < len(loaded):
        return [
            {benchmark: replace(one, name=str(path)) for benchmark, one in results.items()}
            for path, results in zip(paths, loaded, strict=True)
        ]
    return loaded


def _difference(first: BenchmarkResult, second: BenchmarkResult, seed: int) -> Difference:
    if first.ids != second.ids:
        raise UserError(
            f"{first.benchmark}: {first.name} has {first.problems} problems and {second.name} {second.problems}, and "
            "they are not the same in the same order; evaluate both on the same file with the same evaluate.limit"
        )
    gain = paired_bootstrap(_means(first.correct_PK), _means(second.correct_PK), seed=seed)
    return Difference(
        first.benchmark, first.problems, first.pass_at_1.mean, second.pass_at_1.mean, gain.mean, gain.low, gain.high
    )


def _means(correct_PK: Sequence[Sequence[int]]) -> list[list[float]]:
    return [[sum(row) / len(row)] for row in correct_PK]
