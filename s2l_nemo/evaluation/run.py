"""One evaluation, from the configuration to its files. If it is cut off, it continues where it stopped."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console

from s2l_nemo.config.evaluation import EvaluateConfig, result_name
from s2l_nemo.config.load import resolved_yaml
from s2l_nemo.data.benchmarks import Benchmark, load_benchmark
from s2l_nemo.errors import UserError
from s2l_nemo.evaluation.answers import unreadable_golds
from s2l_nemo.evaluation.console import console, print_facts, print_results, progress, progress_bar
from s2l_nemo.evaluation.figures import write_summary
from s2l_nemo.evaluation.folder import EvaluationFolder, create_folder, find_folder, hash_model, lock_folder
from s2l_nemo.evaluation.modes import Settings, settings
from s2l_nemo.evaluation.raw import append_raw, cut_back, read_raw
from s2l_nemo.evaluation.results import BenchmarkResult, Summary, read_result
from s2l_nemo.evaluation.scoring import benchmark_grader, grade_rows, result
from s2l_nemo.files import write_json_atomic
from s2l_nemo.models.open import Model, open_model
from s2l_nemo.models.precision import Precision
from s2l_nemo.records.directory import RunDir
from s2l_nemo.records.versions import versions

if TYPE_CHECKING:
    from s2l_nemo.evaluation.plan import Plan
    from s2l_nemo.evaluation.sampling import Sampler

NOT_IDENTITY = ("dir", "rescore")  # of `evaluate`: where files are, not what is asked
ENGINE_IDENTITY = ("kind", "tensor_parallel_size")  # of `engine`: what may change the last bits of log-probs


@dataclass(frozen=True)
class Question:
    """What a model is asked, and how."""

    cfg: EvaluateConfig
    benchmarks: list[Benchmark]
    how: Settings
    device: str
    precision: Precision


def read_question(cfg: EvaluateConfig, benchmarks: list[Benchmark]) -> Question:
    """Loads torch, so it comes after all that needs none."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = cfg.evaluate.precision or (Precision.bf16 if device == "cuda" else Precision.fp32)
    return Question(cfg, benchmarks, settings(cfg.mode, cfg.evaluate), device, precision)


def read_benchmarks(cfg: EvaluateConfig) -> list[Benchmark]:
    """The benchmarks of the configuration, in its order. Raises UserError if one is missing or malformed."""
    data = Path(cfg.evaluate.data)
    limit, proofs = cfg.evaluate.limit, cfg.evaluate.proofs
    return [load_benchmark(name, data, cfg.rewards.answer, limit, proofs=proofs) for name in cfg.benchmarks]


def evaluate(cfg: EvaluateConfig) -> None:
    """Samples, grades and summarises. `EvaluationFolder` names the files, which lie below `evaluate.dir`.

    Raises UserError if model, benchmarks and settings do not fit. Nothing has been written then.
    """
    assert cfg.model is not None
    out, benchmarks = console(), read_benchmarks(cfg)
    refuse_run(cfg.model)
    model = open_model("model", cfg.model)  # before torch is loaded: mistakes show at once
    question = read_question(cfg, benchmarks)
    print_facts(out, "Evaluation", facts(question))
    print_notes(out, question)
    identity = make_identity(question, {"model": hash_model(model)})
    name, root = result_name(cfg), Path(cfg.evaluate.dir)
    folder = find_folder(root, name, identity)
    if folder is not None and folder.is_finished(cfg.benchmarks):
        print_results(out, read_summary(question, folder))
        out.print(f"already finished: {folder.result}; give another name to repeat it", soft_wrap=True)
        return
    sampler = make_sampler(question, model)
    folder = open_folder(folder, root, name, identity, out)
    try:
        print_results(out, sample_and_score(question, sampler, folder, out))
    finally:
        sampler.close()
    out.print(f"written to {folder.output} and {folder.result}", soft_wrap=True)


def refuse_run(path: str) -> None:
    """Raises UserError for the folder of a run, which holds many models."""
    if RunDir(Path(path)).config.is_file() and RunDir(Path(path)).versions.is_file():
        raise UserError(
            f"model={path} is the folder of a run: add steps=all, or give one of its checkpoints, such as "
            f"model={RunDir(Path(path)).checkpoint(40)}"
        )


def make_sampler(question: Question, model: Model) -> Sampler:
    """Loads the model. Raises UserError if it does not fit the question, or `rewards.fn` cannot be imported."""
    from s2l_nemo.evaluation.sampling import load_sampler  # late: its libraries take seconds

    benchmark_grader(question.benchmarks[0].name, question.cfg.rewards).close()  # a wrong function shows now
    return load_sampler(question.cfg, model, question.benchmarks, question.precision, question.device)


def open_folder(
    found: EvaluationFolder | None, root: Path, name: str, identity: dict[str, Any], out: Console
) -> EvaluationFolder:
    """The folder to continue in, or a new one, which no other process may use until this one ends."""
    folder = found or create_folder(root, name, identity, versions())
    lock_folder(folder)
    if found is not None:
        out.print(f"continues in {folder.output}", soft_wrap=True)
    return folder


def sample_and_score(question: Question, sampler: Sampler, folder: EvaluationFolder, out: Console) -> Summary:
    """Whatever the folder lacks of the evaluation of one model. `summary.json` comes last."""
    results = []
    for plan in sampler.plans:
        sample_benchmark(sampler, plan, folder, out)
        results.append(score_benchmark(question.cfg, plan, folder, out))
    summary = Summary(result_name(question.cfg), results)
    write_summary(folder.result, summary)
    return summary


def read_summary(question: Question, folder: EvaluationFolder) -> Summary:
    """What a finished evaluation has found."""
    results = [read_result(folder.figures(one.name)) for one in question.benchmarks]
    return Summary(result_name(question.cfg), results)


def make_identity(question: Question, hashes: dict[str, Any]) -> dict[str, Any]:
    """What decides every sample and grade: two evaluations of equal identity give equal files.

    `hashes` tell which models are evaluated.
    """
    config = yaml.safe_load(resolved_yaml(question.cfg))
    del config["steps"]
    options = {key: value for key, value in config["evaluate"].items() if key not in NOT_IDENTITY}
    return {
        **config,
        "name": result_name(question.cfg),
        "k": {one.name: question.cfg.k or one.samples for one in question.benchmarks},
        "engine": {key: config["engine"][key] for key in ENGINE_IDENTITY},
        "evaluate": {**options, "precision": question.precision.value, **asdict(question.how)},
        "sha256": {**hashes, "benchmarks": {one.name: _hash_problems(one) for one in question.benchmarks}},
    }


def sample_benchmark(sampler: Sampler, plan: Plan, folder: EvaluationFolder, out: Console) -> None:
    """Samples what BENCH_raw.jsonl lacks, chunk by chunk."""
    path, total = folder.raw(plan.benchmark.name), len(plan.prompts)
    done = cut_back(path, sampler.chunk(plan), total)
    if done == total:
        return
    with progress_bar(out, before=plan.benchmark.name, after="problems") as bar:
        task = bar.add_task("", total=total, completed=done)
        started = time.perf_counter()
        for rows in sampler.sample(plan, start=done):
            append_raw(path, rows)
            done += len(rows)
            seconds, started = time.perf_counter() - started, time.perf_counter()
            bar.update(task, completed=done)
            tokens = sum(sum(row.tokens or []) for row in rows)
            out.print(
                f"{plan.benchmark.name}  {done:>{len(str(total))}}/{total} problems  {tokens:,} tokens in "
                f"{seconds:.1f} s ({tokens / seconds:,.0f}/s)"
            )


def score_benchmark(cfg: EvaluateConfig, plan: Plan, folder: EvaluationFolder, out: Console) -> BenchmarkResult:
    """Grades BENCH_raw.jsonl and writes BENCH.jsonl and BENCH.json, unless that was done before."""
    benchmark = plan.benchmark.name
    figures = folder.figures(benchmark)
    if figures.exists():
        return read_result(figures)
    grader = benchmark_grader(benchmark, cfg.rewards)
    try:
        say = progress(out, benchmark, len(plan.prompts))
        graded = grade_rows(read_raw(folder.raw(benchmark)), grader, folder.graded(benchmark), say)
    finally:
        grader.close()
    found = result(
        graded,
        name=result_name(cfg),
        benchmark=benchmark,
        mode=cfg.mode,
        max_tokens=plan.params.max_new_tokens,
        seed=cfg.seed,
        subset=plan.benchmark.subset,
    )
    write_json_atomic(figures, found.to_json())
    return found


def print_notes(out: Console, question: Question) -> None:
    """Says which golds cannot be graded. A reward function of one's own knows its own golds."""
    if question.cfg.rewards.fn is None:
        for note in filter(None, map(unreadable_golds, question.benchmarks)):
            out.print(note, soft_wrap=True)


def facts(question: Question) -> dict[str, object]:
    """What a person sees first."""
    cfg, how = question.cfg, question.how
    counts = [cfg.k or one.samples for one in question.benchmarks]
    sampling = f"temperature {how.temperature:g}, top-p {how.top_p:g}, top-k {how.top_k}, presence penalty " + (
        f"{how.presence_penalty:g}"
    )
    return {
        "model": f"{cfg.model} on {'GPU' if question.device == 'cuda' else 'CPU'}, {question.precision.value}, "
        f"engine.kind={cfg.engine.kind}",
        "benchmarks": ", ".join(
            f"{one.name} ({one.subset or len(one.problems)} problems)" for one in question.benchmarks
        ),
        "samples": f"{', '.join(map(str, dict.fromkeys(counts)))} of each problem, seed {cfg.seed}",
        "mode": f"{cfg.mode.value}: " + ("greedy" if how.temperature == 0 else sampling),
    }


def _hash_problems(benchmark: Benchmark) -> str:
    return hashlib.sha256(json.dumps([asdict(problem) for problem in benchmark.problems]).encode()).hexdigest()
