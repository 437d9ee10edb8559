"""The models of a training run, step by step, and the curve that their evaluations draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from s2l_nemo.errors import UserError
from s2l_nemo.evaluation.results import BenchmarkResult, read_result
from s2l_nemo.files import read_json_object, write_json_atomic
from s2l_nemo.models.formats.yaml_config import read_yaml_mapping
from s2l_nemo.records.checkpoints import complete_checkpoints
from s2l_nemo.records.directory import RunDir
from s2l_nemo.records.metrics import read_metrics

Value = TypeVar("Value", str, int)
ALL = "all"
FILE = "steps.json"
_AGAIN = "evaluate the run again"


@dataclass(frozen=True)
class StepModel:
    """The learner of a run after a step: a checkpoint. After step 0, it is the model that the run started from."""

    step: int
    key: str  # what named it, for messages
    path: str


@dataclass(frozen=True)
class CurvePoint:
    """What the learner of one step scores, by benchmark. `prompts`: how many the run had asked by then."""

    step: int
    prompts: int
    results: dict[str, BenchmarkResult]


@dataclass(frozen=True)
class StepCurve:
    """The evaluations of one run, steps ascending."""

    name: str
    points: list[CurvePoint]


def models_of_run(run: Path, wanted: Sequence[str]) -> list[StepModel]:
    """The models of these steps, ascending. `["all"]` means step 0 and every complete checkpoint.

    Raises UserError if the folder is no run, or a step has no checkpoint.
    """
    directory = RunDir(run)
    if not directory.config.is_file():
        raise UserError(f"model={run} is no folder of a run, and steps={','.join(wanted)} are given: leave steps out")
    start = _stated(directory.config, "model", "path", str)
    there = [StepModel(0, f"step 0 of {run}: model.path", start)]
    there += [StepModel(one.step, "model", str(one.path)) for one in complete_checkpoints(directory.checkpoints)]
    if list(wanted) == [ALL]:
        return there
    by_step = {one.step: one for one in there}
    missing = [step for step in wanted if int(step) not in by_step]
    if missing:
        raise UserError(
            f"steps: {run} has no checkpoint of step {', '.join(missing)}; there are {', '.join(map(str, by_step))} "
            "(checkpoint.every and checkpoint.keep decide which are kept)"
        )
    return [by_step[step] for step in sorted({int(step) for step in wanted})]


def prompts_asked(run: Path) -> Callable[[int], int]:
    """How many prompts the run had asked after a step, those that dynamic sampling replaced among them."""
    batch = _stated(RunDir(run).config, "algorithm", "prompts_per_step", int)
    totals = {line["step"]: line.get("total/prompts") for line in read_metrics(RunDir(run).metrics)}

    def asked(step: int) -> int:
        total = totals.get(step)  # a run of an earlier version took whole batches, and did not count them
        return step * batch if total is None else int(total)

    return asked


def _stated(file: Path, section: str, name: str, kind: type[Value]) -> Value:
    """What a run's config.yaml says. Raises UserError if it does not."""
    within = read_yaml_mapping(file.read_bytes(), str(file)).get(section)
    value = within.get(name) if isinstance(within, dict) else None
    if type(value) is not kind:
        raise UserError(f"{file}: {section}.{name}={value!r:.80} is no {kind.__name__}: give the folder of a run")
    return value


def step_name(step: int) -> str:
    """What the folder of one step is called."""
    return f"step_{step:06d}"


def write_curve(folder: Path, name: str, asked: Callable[[int], int]) -> StepCurve:
    """Writes `steps.json` beside the finished evaluations of single steps in `folder`, and returns what they show."""
    finished = sorted(int(path.parent.name.removeprefix("step_")) for path in folder.glob("step_*/summary.json"))
    steps = [{"step": step, "prompts": asked(step)} for step in finished]
    write_json_atomic(folder / FILE, {"name": name, "steps": steps})
    return read_curve(folder)


def is_curve(path: Path) -> bool:
    """Whether a folder result/NAME_TIME is that of a run's steps."""
    return (path / FILE).is_file()


def read_curve(folder: Path) -> StepCurve:
    """The evaluations of a run, from its folder result/NAME_TIME. Raises UserError if a file is damaged."""
    file = folder / FILE
    try:
        content = read_json_object(file, _AGAIN)
        places = [(int(one["step"]), int(one["prompts"])) for one in content["steps"]]
        points = [CurvePoint(step, prompts, _results(folder / step_name(step))) for step, prompts in places]
        return StepCurve(str(content["name"]), points)
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"{file} is not as recipes/evaluate.py writes it ({error}): {_AGAIN}") from None


def load_curves(paths: Sequence[Path]) -> list[StepCurve]:
    """The curves of several runs. If two have the same name, all are called by their folders."""
    curves = [read_curve(path) for path in paths]
    if len({curve.name for curve in curves}) < len(curves):
        return [replace(curve, name=str(path)) for path, curve in zip(paths, curves, strict=True)]
    return curves


def shared_steps(first: StepCurve, second: StepCurve) -> list[tuple[CurvePoint, CurvePoint]]:
    """The points of both at the steps that both have."""
    by_step = {point.step: point for point in second.points}
    return [(point, by_step[point.step]) for point in first.points if point.step in by_step]


def _results(folder: Path) -> dict[str, BenchmarkResult]:
    """In the order in which they were asked, which summary.json has."""
    summary = read_json_object(folder / "summary.json", _AGAIN)
    names = [str(name) for name in summary["benchmarks"]]
    if any("/" in name or "\0" in name for name in names):
        raise UserError(f"{folder / 'summary.json'} names benchmarks that lie elsewhere: {_AGAIN}")
    return {name: read_result(folder / f"{name}.json") for name in names}
