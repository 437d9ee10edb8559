"""From sampled responses to graded ones (`BENCH.jsonl`) and to the figures of a `BenchmarkResult`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from s2l_nemo.config.asking import Mode
from s2l_nemo.config.schema import DataConfig, RewardsConfig
from s2l_nemo.data.benchmarks import benchmark_kind
from s2l_nemo.evaluation.raw import RawRow, json_line
from s2l_nemo.evaluation.results import BenchmarkResult
from s2l_nemo.evaluation.votes import Classes, by_text, classes_of, merged
from s2l_nemo.files import replacing
from s2l_nemo.measures.statistics import Interval, bootstrap_mean, majority_P, mean, pass_at_k
from s2l_nemo.rewards.grader import Grade, GradeItem, Grader, check_any_worked, make_grader

ROWS_AT_ONCE = 64  # problems graded in one batch; bounds memory, since responses may be long


@dataclass
class Graded:
    """What grading keeps of a benchmark: one row for each problem. Rows may have different numbers of samples."""

    ids: list[int | str] = field(default_factory=list)
    correct: list[list[int]] = field(default_factory=list)
    answers: list[list[str | None]] = field(default_factory=list)  # of equal values the first
    tokens: list[int] = field(default_factory=list)  # of all samples that have a count
    truncated: list[bool] = field(default_factory=list)  # of all samples that have a finish reason
    grader_errors: int = 0
    why_failed: str | None = None  # the reason of the first check that failed

    def add(self, row: RawRow, grades: Sequence[Grade], classes: Classes = by_text) -> None:
        """Adds the grades of one problem. A check that failed counts as wrong, and so does a partial mark."""
        self.ids.append(row.id)
        self.correct.append([int(grade.reward is not None and grade.reward >= 1.0) for grade in grades])
        self.answers.append(merged([grade.answer for grade in grades], self.correct[-1], classes))
        self.tokens += row.tokens or []
        self.truncated += [reason == "length" for reason in row.finish_reasons or []]
        self.grader_errors += sum(grade.reward is None for grade in grades)
        self.why_failed = self.why_failed or next((grade.error for grade in grades if grade.error is not None), None)


def benchmark_grader(benchmark: str, rewards: RewardsConfig) -> Grader:
    """The grader of a benchmark, which also decides what an answer is; see `benchmark_kind`."""
    values: dict[str, Any] = OmegaConf.to_container(OmegaConf.structured(rewards))  # type: ignore[assignment]
    answer = benchmark_kind(benchmark, rewards.answer).answer
    return make_grader(DataConfig(path=benchmark), RewardsConfig(**values | {"answer": answer}))


def grade_rows(
    rows: Iterable[RawRow], grader: Grader, output: Path, say: Callable[[int], None] | None = None
) -> Graded:
    """Grades all rows and writes them to `output` (BENCH.jsonl). The file is written whole or not at all.

    `say` hears after every batch how many problems have been graded. Raises UserError, once the file is there, if all
    checks have failed.
    """
    graded, classes = Graded(), classes_of(grader)
    rows = iter(rows)
    with replacing(output) as temporary, temporary.open("wb") as file:
        for batch in iter(lambda: list(islice(rows, ROWS_AT_ONCE)), []):
            for row, grades in _grade_batch(batch, grader):
                graded.add(row, grades, classes)
                file.write(_graded_line(row, grades))
            if say is not None:
                say(len(graded.ids))
    checks = sum(map(len, graded.correct))
    then = "then score the outputs, which are kept, with evaluate.rescore=DIR"
    check_any_worked(output.stem, graded.grader_errors, checks, graded.why_failed, then)
    return graded


def _graded_line(row: RawRow, grades: Sequence[Grade]) -> bytes:
    return json_line(
        {
            "id": row.id,
            "question": row.question,
            "answer": row.answer,
            "extracted": [grade.answer for grade in grades],
            "rewards": [grade.reward for grade in grades],
            "errors": [grade.error for grade in grades],
        }
    )


def _grade_batch(batch: Sequence[RawRow], grader: Grader) -> Iterator[tuple[RawRow, list[Grade]]]:
    items = [
        GradeItem(prompt_id=index, question=row.question, gold=row.answer, response=output)
        for index, row in enumerate(batch)
        for output in row.outputs
    ]
    grades = iter(grader.grade(items))
    for row in batch:
        yield row, list(islice(grades, len(row.outputs)))


def result(
    graded: Graded,
    *,
    name: str,
    benchmark: str,
    mode: Mode | None,
    max_tokens: int | None,
    seed: int,
    subset: str | None = None,
) -> BenchmarkResult:
    """The figures of graded rows.

    A problem without predictions counts as wrong. K is the smallest number of samples that a problem with predictions
    has. pass@k uses all samples of each problem (Chen et al., arXiv 2107.03374, Eq. 1), up to k = K. majority@K uses
    the first K.
    """
    counts = [len(row) for row in graded.correct if row]
    K = min(counts)
    correct = [row or [0] * K for row in graded.correct]
    answers = [row or [None] * K for row in graded.answers]

    def interval(values_P: Sequence[float]) -> Interval:
        return bootstrap_mean([[value] for value in values_P], seed=seed)

    curve = {k: interval([pass_at_k(len(row), sum(row), k) for row in correct]) for k in curve_points(K)}
    majority = majority_P([row[:K] for row in answers], [[float(value) for value in row[:K]] for row in correct])
    return BenchmarkResult(
        name=name,
        benchmark=benchmark,
        mode=mode,
        max_tokens=max_tokens,
        samples=K,
        most_samples=max(counts),
        without_predictions=len(graded.correct) - len(counts),
        seed=seed,
        pass_at_1=curve[1],
        pass_at_k=curve,
        majority=interval(majority.tolist()),
        mean_tokens=mean(graded.tokens),
        truncated_fraction=mean(graded.truncated),
        no_answer_fraction=sum(answer is None for row in graded.answers for answer in row) / sum(counts),
        grader_errors=graded.grader_errors,
        why_failed=graded.why_failed,
        correct_PK=correct,
        ids=graded.ids,
        subset=subset,
    )


def curve_points(samples: int) -> list[int]:
    """Every power of two up to the number of samples, and that number."""
    return sorted({2**power for power in range(samples.bit_length())} | {samples})
