"""From sampled responses to `BENCH.jsonl` and the figures of `BENCH.json`. P problems, K samples of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from s2l_nemo.config.schema import DataConfig, RewardsConfig
from s2l_nemo.data.benchmarks import benchmark_kind
from s2l_nemo.evaluation.raw import RawRow, json_line
from s2l_nemo.files import replacing
from s2l_nemo.measures.statistics import bootstrap_mean, majority_P, pass_at_k
from s2l_nemo.rewards.answers import normalize_answer
from s2l_nemo.rewards.grader import Grade, GradeItem, Grader, make_grader

ROWS_AT_ONCE = 64  # problems graded in one batch; bounds memory, since responses may be long


@dataclass
class Graded:
    """What grading keeps of a benchmark: a row a problem, in order. Rows may have different numbers of samples."""

    ids: list[int | str] = field(default_factory=list)
    correct: list[list[int]] = field(default_factory=list)
    answers: list[list[str | None]] = field(default_factory=list)  # normalised
    tokens: list[int] = field(default_factory=list)  # of all samples that have a count
    truncated: list[bool] = field(default_factory=list)  # of all samples that have a finish reason
    grader_errors: int = 0

    def add(self, row: RawRow, grades: Sequence[Grade]) -> None:
        """A problem's grades. A check that failed, and a partial mark of a custom function, count as wrong."""
        self.ids.append(row.id)
        self.correct.append([int(grade.reward is not None and grade.reward >= 1.0) for grade in grades])
        self.answers.append([None if grade.answer is None else normalize_answer(grade.answer) for grade in grades])
        self.tokens += row.tokens or []
        self.truncated += [reason == "length" for reason in row.finish_reasons or []]
        self.grader_errors += sum(grade.reward is None for grade in grades)


def benchmark_grader(benchmark: str, rewards: RewardsConfig) -> Grader:
    """The grader of a benchmark, which also decides what an answer is; see `benchmark_kind`."""
    values: dict[str, Any] = OmegaConf.to_container(OmegaConf.structured(rewards))  # type: ignore[assignment]
    answer = benchmark_kind(benchmark, rewards.answer).answer
    return make_grader(DataConfig(path=benchmark), RewardsConfig(**values | {"answer": answer}))


def grade_rows(rows: Iterable[RawRow], grader: Grader, output: Path) -> Graded:
    """Grades row by row and writes `output` (BENCH.jsonl), whole or not at all."""
    graded = Graded()
    rows = iter(rows)
    with replacing(output) as temporary, temporary.open("wb") as file:
        for batch in iter(lambda: list(islice(rows, ROWS_AT_ONCE)), []):
            for row, grades in _grade_batch(batch, grader):
                graded.add(row, grades)
                file.write(
                    json_line(
                        {
                            "id": row.id,
                            "question": row.question,
                            "answer": row.answer,
                            "extracted": [grade.answer for grade in grades],
                            "rewards": [grade.reward for grade in grades],
                            "errors": [grade.error for grade in grades],
                        }
                    )
                )
    return graded


def _grade_batch(batch: Sequence[RawRow], grader: Grader) -> Iterator[tuple[RawRow, list[Grade]]]:
    items = [
        GradeItem(prompt_id=index, question=row.question, gold=row.answer, response=output)
        for index, row in enumerate(batch)
        for output in row.outputs
    ]
    grades = iter(grader.grade(items))
    for row in batch:
        yield row, list(islice(grades, len(row.outputs)))


def result(graded: Graded, header: dict[str, Any], seed: int) -> dict[str, Any]:
    """The content of BENCH.json, which begins with `header`.

    A question without predictions counts as wrong. Where rows have different numbers of samples, K is the smallest
    one above 0: pass@k uses all samples of each problem (Chen et al., arXiv 2107.03374, Eq. 1), up to k = K, and
    majority@K the first K. Intervals are 95 % bootstrap intervals over problems. A figure without a basis is None.
    """
    counts = [len(row) for row in graded.correct if row]
    K = min(counts)
    correct = [row or [0] * K for row in graded.correct]
    answers = [row or [None] * K for row in graded.answers]

    def interval(values_P: Sequence[float]) -> dict[str, float]:
        mean, low, high = bootstrap_mean([[value] for value in values_P], seed=seed)
        return {"mean": mean, "low": low, "high": high}

    curve = {str(k): interval([pass_at_k(len(row), sum(row), k) for row in correct]) for k in curve_points(K)}
    majority = majority_P([row[:K] for row in answers], [[float(value) for value in row[:K]] for row in correct])
    predictions = sum(counts)
    return {
        **header,
        "problems": len(correct),
        "samples": K,
        "most_samples": max(counts),
        "without_predictions": len(graded.correct) - len(counts),
        "seed": seed,
        "pass@1": curve["1"],
        "pass@k": curve,
        f"majority@{K}": interval(majority.tolist()),
        "mean_tokens": sum(graded.tokens) / len(graded.tokens) if graded.tokens else None,
        "truncated_fraction": sum(graded.truncated) / len(graded.truncated) if graded.truncated else None,
        "no_answer_fraction": sum(answer is None for row in graded.answers for answer in row) / predictions,
        "grader_errors": graded.grader_errors,
        "correct": correct,
        "ids": graded.ids,
    }


def curve_points(samples: int) -> list[int]:
    """Every power of two up to the number of samples, and that number."""
    return sorted({2**power for power in range(samples.bit_length())} | {samples})


def summary(name: str, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The content of summary.json: the means of every benchmark, and pass@1 averaged over benchmarks."""
    benchmarks = {}
    for one in results:
        K = one["samples"]
        benchmarks[one["benchmark"]] = {
            "problems": one["problems"],
            "samples": K,
            "pass@1": one["pass@1"]["mean"],
            f"pass@{K}": one["pass@k"][str(K)]["mean"],
            f"majority@{K}": one[f"majority@{K}"]["mean"],
            **{key: one[key] for key in ("mean_tokens", "truncated_fraction", "no_answer_fraction", "grader_errors")},
        }
    average = sum(one["pass@1"]["mean"] for one in results) / len(results)
    return {"name": name, "benchmarks": benchmarks, "average_pass@1": average}
