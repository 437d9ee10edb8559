"""What an evaluation has found, and how it looks on the disk: `BENCH.json` and `summary.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s2l_nemo.config.asking import Mode
from s2l_nemo.errors import UserError
from s2l_nemo.files import read_json_object
from s2l_nemo.measures.statistics import Interval


@dataclass(frozen=True)
class BenchmarkResult:
    """The figures of one model on one benchmark. P problems, K samples of each.

    All intervals are 95 % bootstrap intervals over problems. A figure without a basis is None.
    """

    name: str  # what the evaluation is called
    benchmark: str
    mode: Mode | None  # None: whoever sampled the responses did not say
    max_tokens: int | None  # the limit of a response; None as above
    samples: int  # K: the fewest that a problem with predictions has
    most_samples: int
    without_predictions: int  # problems, which count as wrong
    seed: int  # of the intervals
    pass_at_1: Interval
    pass_at_k: dict[int, Interval]  # by k, from 1 to K
    majority: Interval  # majority@K
    mean_tokens: float | None
    truncated_fraction: float | None
    no_answer_fraction: float
    grader_errors: int
    correct_PK: list[list[int]]  # rows may be longer than K
    ids: list[int | str]  # of the problems, in the order of `correct_PK`
    why_failed: str | None = field(default=None, compare=False)  # the reason of the first failed check; in no file
    subset: str | None = None  # which of the benchmark's problems these are, in words; None: all, or nobody has said

    @property
    def problems(self) -> int:
        """P."""
        return len(self.correct_PK)

    @property
    def named_subset(self) -> dict[str, str]:
        """The key `subset` of both files; nothing if these are all problems."""
        return {} if self.subset is None else {"subset": self.subset}

    def to_json(self) -> dict[str, Any]:
        """The content of BENCH.json."""
        limit = {} if self.max_tokens is None else {"max_tokens": self.max_tokens}
        return {
            "name": self.name,
            "benchmark": self.benchmark,
            "mode": None if self.mode is None else self.mode.value,
            **limit,
            "problems": self.problems,
            **self.named_subset,
            "samples": self.samples,
            "most_samples": self.most_samples,
            "without_predictions": self.without_predictions,
            "seed": self.seed,
            "pass@1": self.pass_at_1._asdict(),
            "pass@k": {str(k): interval._asdict() for k, interval in self.pass_at_k.items()},
            f"majority@{self.samples}": self.majority._asdict(),
            "mean_tokens": self.mean_tokens,
            "truncated_fraction": self.truncated_fraction,
            "no_answer_fraction": self.no_answer_fraction,
            "grader_errors": self.grader_errors,
            "correct": self.correct_PK,
            "ids": self.ids,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> BenchmarkResult:
        """The result whose `to_json` is `content`.

        Raises KeyError if a key is missing, and ValueError if samples or intervals are malformed.
        """
        known = {key: content[key] for key in _KEYS}
        rows, ids, mode, K = known["correct"], known["ids"], known["mode"], known["samples"]
        for name, kinds in _TYPES.items():
            if type(known.get(name, content.get(name))) not in kinds:
                raise ValueError(f"{name!r} is of a wrong type")
        are_lists = isinstance(rows, list) and isinstance(ids, list) and all(type(one) in (int, str) for one in ids)
        if not are_lists or not 0 < len(rows) == len(ids) or not all(map(_is_row, rows)):
            raise ValueError("'correct' must hold a list of 0 and 1 for each of 'ids'")
        curve = known["pass@k"]
        if not isinstance(curve, dict) or not all(map(_is_interval, [known["pass@1"], *curve.values()])):
            raise ValueError("'pass@1' and all of 'pass@k' must have mean, low and high")
        if str(K) not in curve or not all(k.isascii() and k.isdecimal() and len(k) < 10 for k in curve):
            raise ValueError(f"'pass@k' must have numbers of samples, {K} among them")
        majority = content[f"majority@{K}"]
        if not _is_interval(majority):
            raise ValueError(f"'majority@{K}' must have mean, low and high")
        return cls(
            name=known["name"],
            benchmark=known["benchmark"],
            mode=None if mode is None else Mode(mode),
            max_tokens=content.get("max_tokens"),
            samples=K,
            most_samples=known["most_samples"],
            without_predictions=known["without_predictions"],
            seed=known["seed"],
            pass_at_1=_interval(known["pass@1"]),
            pass_at_k={int(k): _interval(value) for k, value in curve.items()},
            majority=_interval(majority),
            mean_tokens=known["mean_tokens"],
            truncated_fraction=known["truncated_fraction"],
            no_answer_fraction=known["no_answer_fraction"],
            grader_errors=known["grader_errors"],
            correct_PK=rows,
            ids=ids,
            subset=content.get("subset"),
        )


@dataclass(frozen=True)
class Summary:
    """The results of one model on all its benchmarks."""

    name: str
    results: Sequence[BenchmarkResult]

    @property
    def average_pass_at_1(self) -> float:
        """The mean over benchmarks, each of the same weight."""
        return sum(one.pass_at_1.mean for one in self.results) / len(self.results)

    def to_json(self) -> dict[str, Any]:
        """The content of summary.json: means without their intervals."""
        benchmarks = {
            one.benchmark: {
                "problems": one.problems,
                **one.named_subset,
                "samples": one.samples,
                "pass@1": one.pass_at_1.mean,
                f"pass@{one.samples}": one.pass_at_k[one.samples].mean,
                f"majority@{one.samples}": one.majority.mean,
                "mean_tokens": one.mean_tokens,
                "truncated_fraction": one.truncated_fraction,
                "no_answer_fraction": one.no_answer_fraction,
                "grader_errors": one.grader_errors,
            }
            for one in self.results
        }
        return {"name": self.name, "benchmarks": benchmarks, "average_pass@1": self.average_pass_at_1}


def read_result(file: Path) -> BenchmarkResult:
    """The result in a BENCH.json. Raises UserError if the file is not as recipes/evaluate.py writes it."""
    content = read_json_object(file, "give a BENCH.json of recipes/evaluate.py")
    try:
        return BenchmarkResult.from_json(content)
    except KeyError as error:
        raise UserError(f"{file} is no result of recipes/evaluate.py: it has no {error}") from None
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}") from None


# In the order in which a missing one is named; `max_tokens` may be missing, and `majority@K` depends on K.
_KEYS = (
    "name", "benchmark", "problems", "pass@1", "pass@k", "correct", "ids", "mode", "samples", "most_samples",
    "without_predictions", "seed", "mean_tokens", "truncated_fraction", "no_answer_fraction", "grader_errors",
)  # fmt: skip


_COUNT, _FIGURE = (int,), (int, float)
_TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,), "benchmark": (str,), "mode": (str, type(None)), "max_tokens": (int, type(None)), "samples": _COUNT,
    "most_samples": _COUNT, "without_predictions": _COUNT, "seed": _COUNT, "mean_tokens": (*_FIGURE, type(None)),
    "truncated_fraction": (*_FIGURE, type(None)), "no_answer_fraction": _FIGURE, "grader_errors": _COUNT,
    "subset": (str, type(None)),
}  # fmt: skip


def _interval(value: Mapping[str, float]) -> Interval:
    return Interval(value["mean"], value["low"], value["high"])


def _is_interval(value: Any) -> bool:
    return isinstance(value, dict) and all(type(value.get(key)) in _FIGURE for key in Interval._fields)


def _is_row(row: Any) -> bool:
    return isinstance(row, list) and bool(row) and all(type(value) is int and value in (0, 1) for value in row)
