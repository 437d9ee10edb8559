"""Files as training runs and evaluations leave them, for the tests of the claims."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from s2l_nemo.reproduction.plan import run_folder
from tests.evaluation.test_compare_results import content


def write_run(
    root: Path,
    experiment: str,
    seed: int,
    by_step: Mapping[int, Sequence[Sequence[float]]],
    *,
    ids: Sequence[int] | None = None,
    flops: tuple[float, float] | None = (1.0, 3.0),
    digits: int = 3,
    temperature: float = 1.0,
) -> Path:
    """A finished toy run with these validations: correct_PK by step."""
    run, last = run_folder(root, experiment, seed), max(by_step)
    (run / "validation").mkdir(parents=True)
    (run / "summary.json").write_text(json.dumps({"steps": last}))
    data = {"task": "arithmetic", "arithmetic": {"digits": digits}, "cache_dir": f"cache_{seed}"}
    (run / "config.yaml").write_text(yaml.safe_dump({"data": data, "validation": {"temperature": temperature}}))
    line: dict[str, float] = {"step": last}
    if flops is not None:
        line |= {"total/flops_explorer": flops[0], "total/flops_learner": flops[1]}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    for step, correct_PK in by_step.items():
        asked = list(ids or range(len(correct_PK)))
        row = {"step": step, "prompt_ids": asked, "correct": [list(row) for row in correct_PK], "grader_errors": 0}
        (run / "validation" / f"step_{step:06d}.json").write_text(json.dumps(row))
    return run


def write_evaluation(
    run: Path, preset: str, by_step: Mapping[int, Mapping[str, list[list[int]]]], *, sha: str = "a"
) -> None:
    """An evaluation of these steps of a run: correct_PK by step and benchmark."""
    name = f"{preset}_20260101-120000"
    result, output = run / "evaluation" / "result" / name, run / "evaluation" / "output" / name
    output.mkdir(parents=True)
    for step, by_benchmark in by_step.items():
        part = result / f"step_{step:06d}"
        part.mkdir(parents=True)
        for benchmark, correct_PK in by_benchmark.items():
            (part / f"{benchmark}.json").write_text(json.dumps(content(correct_PK, benchmark=benchmark)))
        (part / "summary.json").write_text(json.dumps({"benchmarks": dict.fromkeys(by_benchmark)}))
    steps = [{"step": step, "prompts": step * 8} for step in by_step]
    (result / "steps.json").write_text(json.dumps({"name": preset, "steps": steps}))
    hashes = {benchmark: sha for by_benchmark in by_step.values() for benchmark in by_benchmark}
    (output / "config.txt").write_text(yaml.safe_dump({"sha256": {"benchmarks": hashes}}))


def write_model(root: Path, name: str, by_benchmark: Mapping[str, list[list[int]]]) -> None:
    """An evaluation of a model before training: correct_PK by benchmark."""
    folder = f"{name}_20260101-120000"
    result, output = root / "evaluation" / "result" / folder, root / "evaluation" / "output" / folder
    for place in (result, output):
        place.mkdir(parents=True)
    for benchmark, correct_PK in by_benchmark.items():
        (result / f"{benchmark}.json").write_text(json.dumps(content(correct_PK, benchmark=benchmark)))
    (result / "summary.json").write_text(json.dumps({"benchmarks": dict.fromkeys(by_benchmark)}))
    (output / "config.txt").write_text(yaml.safe_dump({"sha256": {"benchmarks": dict.fromkeys(by_benchmark, "a")}}))
