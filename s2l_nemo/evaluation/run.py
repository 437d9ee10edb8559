"""One evaluation, from the configuration to its files. If it is cut off, it continues where it stopped."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console

from s2l_nemo.config.evaluation import EvaluateConfig, result_name, samples
from s2l_nemo.config.load import resolved_yaml
from s2l_nemo.data.benchmarks import Benchmark, load_benchmark
from s2l_nemo.evaluation.console import console, print_facts, print_results, progress_bar
from s2l_nemo.evaluation.figures import write_summary
from s2l_nemo.evaluation.folder import EvaluationFolder, create_folder, find_folder, hash_files, lock_folder
from s2l_nemo.evaluation.modes import Settings, settings
from s2l_nemo.evaluation.raw import append_raw, cut_back, read_raw
from s2l_nemo.evaluation.results import BenchmarkResult, Summary, read_result
from s2l_nemo.evaluation.scoring import benchmark_grader, grade_rows, result
from s2l_nemo.files import write_json_atomic
from s2l_nemo.hub.files import model_folder
from s2l_nemo.models.open import open_model
from s2l_nemo.models.precision import Precision
from s2l_nemo.records.versions import versions

if TYPE_CHECKING:
    from s2l_nemo.evaluation.sampling import Plan, Sampler

NOT_IDENTITY = ("dir", "rescore")  # of `evaluate`: where files are, not what is asked


def evaluate(cfg: EvaluateConfig) -> None:
    """Samples, grades and summarises. `EvaluationFolder` names the files, which lie below `evaluate.dir`.

    Raises UserError if model, benchmarks and settings do not fit. Nothing has been written then.
    """
    assert cfg.model is not None
    out, data = console(), Path(cfg.evaluate.data)
    benchmarks = [load_benchmark(name, data, cfg.rewards.answer, cfg.evaluate.limit) for name in cfg.benchmarks]
    how = settings(cfg.mode, cfg.evaluate)
    model = open_model("model", cfg.model)  # before torch is loaded: mistakes show at once
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = cfg.evaluate.precision or (Precision.bf16 if device == "cuda" else Precision.fp32)
    name, root = result_name(cfg), Path(cfg.evaluate.dir)
    print_facts(out, "Evaluation", _facts(cfg, benchmarks, how, device, precision))

    identity = make_identity(cfg, benchmarks, how, precision)
    folder = find_folder(root, name, identity)
    if folder is not None and folder.is_finished(cfg.benchmarks):
        print_results(out, Summary(name, [read_result(folder.figures(one.name)) for one in benchmarks]))
        out.print(f"already finished: {folder.result}; give another name to repeat it", soft_wrap=True)
        return

    from s2l_nemo.evaluation.sampling import load_sampler  # late: its libraries take seconds

    sampler = load_sampler(cfg, model, benchmarks, how, precision, device)
    benchmark_grader(benchmarks[0].name, cfg.rewards).close()  # a wrong rewards.fn shows now, not after sampling
    if folder is None:
        folder = create_folder(root, name, identity, versions())
        lock_folder(folder)
    else:
        lock_folder(folder)
        out.print(f"continues in {folder.output}", soft_wrap=True)

    results = []
    for plan in sampler.plans:
        sample_benchmark(sampler, plan, folder, out)
        results.append(score_benchmark(cfg, plan, folder))
    summary = Summary(name, results)
    write_summary(folder.result, summary)
    print_results(out, summary)
    out.print(f"written to {folder.output} and {folder.result}", soft_wrap=True)


def make_identity(
    cfg: EvaluateConfig, benchmarks: list[Benchmark], how: Settings, precision: Precision
) -> dict[str, Any]:
    """What decides every sample and grade: two evaluations of equal identity give equal files."""
    assert cfg.model is not None
    config = yaml.safe_load(resolved_yaml(cfg))
    options = {key: value for key, value in config["evaluate"].items() if key not in NOT_IDENTITY}
    return {
        **config,
        "name": result_name(cfg),
        "k": samples(cfg),
        "evaluate": {**options, "precision": precision.value, **asdict(how)},
        "sha256": {
            "model": hash_files(Path(model_folder("model", cfg.model))),
            "benchmarks": {one.name: _hash_problems(one) for one in benchmarks},
        },
    }


def sample_benchmark(sampler: Sampler, plan: Plan, folder: EvaluationFolder, out: Console) -> None:
    """Samples what BENCH_raw.jsonl lacks, chunk by chunk."""
    path, total = folder.raw(plan.benchmark.name), len(plan.prompts)
    done = cut_back(path, sampler.chunk, total)
    if done == total:
        return
    with progress_bar(out, before=plan.benchmark.name, after="problems") as progress:
        task = progress.add_task("", total=total, completed=done)
        started = time.perf_counter()
        for rows in sampler.sample(plan, start=done):
            append_raw(path, rows)
            done += len(rows)
            seconds, started = time.perf_counter() - started, time.perf_counter()
            progress.update(task, completed=done)
            tokens = sum(sum(row.tokens or []) for row in rows)
            out.print(
                f"{plan.benchmark.name}  {done:>{len(str(total))}}/{total} problems  {tokens:,} tokens in "
                f"{seconds:.1f} s ({tokens / seconds:,.0f}/s)"
            )


def score_benchmark(cfg: EvaluateConfig, plan: Plan, folder: EvaluationFolder) -> BenchmarkResult:
    """Grades BENCH_raw.jsonl and writes BENCH.jsonl and BENCH.json, unless that was done before."""
    benchmark = plan.benchmark.name
    figures = folder.figures(benchmark)
    if figures.exists():
        return read_result(figures)
    grader = benchmark_grader(benchmark, cfg.rewards)
    try:
        graded = grade_rows(read_raw(folder.raw(benchmark)), grader, folder.graded(benchmark))
    finally:
        grader.close()
    found = result(
        graded,
        name=result_name(cfg),
        benchmark=benchmark,
        mode=cfg.mode,
        max_tokens=plan.params.max_new_tokens,
        seed=cfg.seed,
    )
    write_json_atomic(figures, found.to_json())
    return found


def _facts(
    cfg: EvaluateConfig, benchmarks: list[Benchmark], how: Settings, device: str, precision: Precision
) -> dict[str, object]:
    sampling = f"temperature {how.temperature:g}, top-p {how.top_p:g}, top-k {how.top_k}, presence penalty " + (
        f"{how.presence_penalty:g}"
    )
    return {
        "model": f"{cfg.model} on {'GPU' if device == 'cuda' else 'CPU'}, {precision.value}",
        "benchmarks": ", ".join(f"{one.name} ({len(one.problems)} problems)" for one in benchmarks),
        "samples": f"{samples(cfg)} of each problem, seed {cfg.seed}",
        "mode": f"{cfg.mode.value}: " + ("greedy" if how.temperature == 0 else sampling),
    }


def _hash_problems(benchmark: Benchmark) -> str:
    return hashlib.sha256(json.dumps([asdict(problem) for problem in benchmark.problems]).encode()).hexdigest()
