"""What the runs of an experiment have shown: how often each problem was solved after which step, and what it cost.

At toy scale these are the validations of the run itself, at paper scale the evaluations of its checkpoints.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from typing_extensions import assert_never

from s2l_nemo.config.reproduction import Scale
from s2l_nemo.errors import UserError
from s2l_nemo.evaluation.answers import config_of
from s2l_nemo.evaluation.results import BenchmarkResult, read_result
from s2l_nemo.evaluation.steps import FILE as STEPS
from s2l_nemo.evaluation.steps import read_curve
from s2l_nemo.files import read_json_object
from s2l_nemo.measures.statistics import pass_at_k
from s2l_nemo.records.directory import RunDir, read_config, step_of
from s2l_nemo.records.metrics import read_metrics
from s2l_nemo.reproduction.plan import EVALUATIONS

SUMMARY = "summary.json"  # of an evaluation; written last
ProblemId = tuple[str, str]  # benchmark, or "held out", and the id in it
Rates = Mapping[ProblemId, float]  # pass@1 of each problem: the mean of its samples


class Metric(str, Enum):
    """What a claim is about. Each is a presence of files: validations, or an evaluation by a preset of that name."""

    pass_at_1 = "pass_at_1"  # toy: validations on held-out prompts; paper: `step_curve`, AIME 2024 and 2025
    table_1 = "table_1"  # four mathematical benchmarks, each problem of the same weight
    table_2 = "table_2"  # CommonsenseQA
    models_at_1 = "models_at_1"  # pass@1 of models before training; toy: held-out prompts, paper: AIME 2024 and 2025
    models_at_k = "models_at_k"  # the same, at all samples
    rollout_flops = "rollout_flops"  # FLOP of explorer and learner for sampling, in the whole run


class Stage(str, Enum):
    """When in a run, in parts of its steps."""

    start = "start"
    quarter = "quarter"
    half = "half"  # T_mix, as the paper has it
    end = "end"
    course = "course"  # the mean over all points after the start: how fast, and how far


@dataclass(frozen=True)
class Curve:
    """pass@1 of every problem after some steps of a run of `steps`.

    `origin` tells its problems, and how they are asked, from others.
    """

    steps: int
    by_step: Mapping[int, Rates]
    origin: str


def final_steps(run: Path) -> int:
    """The steps of a finished run. Raises UserError if there is none."""
    file = RunDir(run).summary
    if not file.is_file():
        raise UserError(f"{run} holds no finished run")
    steps = read_json_object(file, "run the same training command again, which writes it").get("steps")
    if type(steps) is not int:
        raise UserError(f"{run} holds no finished run")
    return steps


def read_outcome(run: Path, metric: Metric, scale: Scale) -> Curve:
    """What a finished run has shown. Raises UserError if the files of this metric are not there or damaged."""
    steps = final_steps(run)
    match metric:
        case Metric.pass_at_1:
            return _validations(run, steps) if scale is Scale.toy else _evaluated(run, steps, "step_curve")
        case Metric.table_1 | Metric.table_2:
            return _evaluated(run, steps, metric.value)
        case Metric.models_at_1 | Metric.models_at_k | Metric.rollout_flops:
            raise AssertionError(f"{metric.value} is none of a run's problems")
        case _:
            assert_never(metric)


def at_stage(curve: Curve, stage: Stage) -> tuple[tuple[int, ...], Rates]:
    """pass@1 of every problem at a stage, and the steps that it is the mean of. Raises UserError if one is missing."""
    match stage:
        case Stage.course:
            steps = tuple(step for step in sorted(curve.by_step) if step > 0)
        case Stage.start:
            steps = (0,)
        case Stage.quarter:
            steps = (curve.steps // 4,)
        case Stage.half:
            steps = (curve.steps // 2,)
        case Stage.end:
            steps = (curve.steps,)
        case _:
            assert_never(stage)
    missing = [step for step in steps if step not in curve.by_step]
    if missing or not steps:
        raise UserError(f"there are no results after step {', '.join(map(str, missing)) or '1'}")
    return steps, {
        problem: sum(curve.by_step[step][problem] for step in steps) / len(steps) for problem in curve.by_step[steps[0]]
    }


def read_model(root: Path, name: str, metric: Metric) -> Curve:
    """What a model before training scores, from ROOT/evaluation. Raises UserError if that is not there or damaged."""
    at_all = metric is Metric.models_at_k
    found = [path.parent for path in sorted((root / EVALUATIONS / "result").glob(f"{name}_*/{SUMMARY}"))]
    if not found:
        raise UserError(f"{root / EVALUATIONS} holds no finished evaluation of {name}")
    results = {
        one.benchmark: one for one in (read_result(file) for file in found[-1].glob("*.json") if file.name != SUMMARY)
    }
    return Curve(0, {0: _rates(results, at_all)}, _asked(root, found[-1].name))


def rollout_flops(run: Path) -> float:
    """FLOP of all that explorer and learner have sampled in a finished run. Raises UserError if they are not known."""
    steps = final_steps(run)
    lines = [line for line in read_metrics(RunDir(run).metrics) if line["step"] == steps]
    names = ("total/flops_explorer", "total/flops_learner")
    if not lines or any(lines[-1].get(name) is None for name in names):
        raise UserError(f"{RunDir(run).metrics} does not say what the rollouts cost")
    return float(sum(lines[-1][name] for name in names))


def _validations(run: Path, steps: int) -> Curve:
    from s2l_nemo.trainer.validation import read_validation  # late: torch comes with it

    folder, by_step = RunDir(run).validation, {}
    for step in sorted(map(step_of, folder.glob("step_*.json"))):
        content = read_validation(folder, step) or {"prompt_ids": [], "correct": []}
        rows = zip(content["prompt_ids"], content["correct"], strict=True)
        by_step[step] = {("held out", str(one)): sum(row) / len(row) for one, row in rows}
    return _checked(Curve(steps, by_step, _data_of(run)), folder)


def _evaluated(run: Path, steps: int, preset: str) -> Curve:
    found = sorted((run / EVALUATIONS / "result").glob(f"{preset}_*/{STEPS}"))
    if not found:
        raise UserError(f"{run / EVALUATIONS} holds no finished evaluation {preset}")
    folder = found[-1].parent
    by_step = {point.step: _rates(point.results) for point in read_curve(folder).points}
    return _checked(Curve(steps, by_step, _asked(run, folder.name)), folder)


def _asked(folder: Path, evaluation: str) -> str:
    """What tells the problems of an evaluation from others."""
    outputs = folder / EVALUATIONS / "output" / evaluation
    sums = config_of(outputs).get("sha256")
    if not isinstance(sums, dict) or "benchmarks" not in sums:
        raise UserError(f"{outputs} does not say which benchmark files were asked: evaluate again")
    return json.dumps(sums["benchmarks"], sort_keys=True)


def _rates(results: Mapping[str, BenchmarkResult], at_all: bool = False) -> Rates:
    """pass@1 of each problem, or with `at_all` pass@K of its K samples."""
    return {
        (name, str(one)): pass_at_k(result.samples, sum(row[: result.samples]), result.samples if at_all else 1)
        for name, result in results.items()
        for one, row in zip(result.ids, result.correct_PK, strict=True)
    }


def _data_of(run: Path) -> str:
    """The keys that decide which problems an id stands for, and how they are asked."""
    config = read_config("run", run)
    data: Any = OmegaConf.to_container(cast(DictConfig, config.data), enum_to_str=True)
    return json.dumps([data | {"cache_dir": None}, config.validation.temperature], sort_keys=True)


def _checked(curve: Curve, folder: Path) -> Curve:
    if not curve.by_step:
        raise UserError(f"{folder} holds no results")
    if len({frozenset(rates) for rates in curve.by_step.values()}) > 1:
        raise UserError(f"{folder}: not every step was asked the same problems")
    return curve
