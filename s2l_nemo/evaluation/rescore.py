"""Figures from responses that are there: reads `BENCH_raw.jsonl` files, whoever wrote them. No model, no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from s2l_nemo.config.evaluation import EvaluateConfig, result_name
from s2l_nemo.errors import UserError
from s2l_nemo.evaluation.answers import check_answers
from s2l_nemo.evaluation.console import console, print_results, progress
from s2l_nemo.evaluation.figures import write_summary
from s2l_nemo.evaluation.raw import SUFFIX, RawRow, read_raw
from s2l_nemo.evaluation.results import BenchmarkResult, Summary
from s2l_nemo.evaluation.scoring import benchmark_grader, grade_rows, result
from s2l_nemo.files import write_json_atomic


def rescore(cfg: EvaluateConfig) -> None:
    """Scores every `*_raw.jsonl` of the folder `evaluate.rescore` into its folder `result`.

    All files are checked before anything is written. Raises UserError if there is no file, if a row is malformed, and
    if `k` is more than the samples of a problem.
    """
    assert cfg.evaluate.rescore is not None
    folder, name = Path(cfg.evaluate.rescore), result_name(cfg)
    files = {path.name.removesuffix(SUFFIX): path for path in sorted(folder.glob(f"*{SUFFIX}"))}
    if not files:
        raise UserError(f"evaluate.rescore={folder}: it has no file *{SUFFIX}; give a folder output/NAME_TIME")
    check_answers(folder, cfg.rewards.answer)
    counts = {benchmark: _check(path, cfg.k) for benchmark, path in files.items()}
    out = console()
    target = folder / "result"
    target.mkdir(exist_ok=True)
    results: list[BenchmarkResult] = []
    for benchmark, path in files.items():
        grader = benchmark_grader(benchmark, cfg.rewards)
        try:
            say = progress(out, benchmark, counts[benchmark])
            graded = grade_rows(_rows(path, cfg.k), grader, target / f"{benchmark}.jsonl", say)
        finally:
            grader.close()
        results.append(result(graded, name=name, benchmark=benchmark, mode=None, max_tokens=None, seed=cfg.seed))
        write_json_atomic(target / f"{benchmark}.json", results[-1].to_json())
    summary = Summary(name, results)
    write_summary(target, summary)
    print_results(out, summary)
    out.print(f"written to {target}", soft_wrap=True)


def _rows(path: Path, k: int | None) -> Iterator[RawRow]:
    """The file's rows, with their first `k` samples if it is given."""
    for row in read_raw(path):
        yield replace(
            row,
            outputs=row.outputs[:k],
            tokens=row.tokens and row.tokens[:k],
            finish_reasons=row.finish_reasons and row.finish_reasons[:k],
        )


def _check(path: Path, k: int | None) -> int:
    """The number of problems."""
    counts = [len(row.outputs) for row in read_raw(path)]
    if not any(counts):
        raise UserError(f"{path} holds no predictions: every row needs 'outputs', a list of texts")
    smallest = min(count for count in counts if count)
    if k is not None and k > smallest:
        raise UserError(
            f"k={k}: {path} has a problem with {smallest} samples; give k={smallest} or less, or leave it out"
        )
    return len(counts)
