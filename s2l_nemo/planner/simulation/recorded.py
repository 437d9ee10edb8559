"""Reads what a run has recorded of its steps: the lengths of all answers and the seconds of each phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from s2l_nemo.errors import UserError
from s2l_nemo.planner.simulation.lengths import Answer, Group, Model
from s2l_nemo.records.directory import RunDir, step_of
from s2l_nemo.records.dump import rollout_batches
from s2l_nemo.records.metrics import read_metrics

# The phases that add up to a step, but for what is outside of them (`trainer.clock`).
WITHIN = ("rollout", "exchange", "reward", "explorer_filter", "logprobs", "update", "refit")


@dataclass(frozen=True)
class RecordedStep:
    """The groups of a step in the order of its prompts, and seconds by the name of a phase, `step` among them.

    A phase that the step did not need is not there. `outside` is what no phase explains.
    """

    step: int
    groups: list[Group]
    seconds: dict[str, float]


def recorded_groups(key: str, path: str | Path, prompt: int) -> dict[int, list[Group]]:
    """The groups of every step whose rollouts were written, by step. `path` is a run's folder.

    Rollout files do not tell how many tokens a prompt has: all get `prompt`. Raises UserError, which names `key`, if
    there are no files, or one is not of this project.
    """
    files = sorted(RunDir(Path(path)).rollouts.glob("step_*.parquet"))
    if not files:
        raise UserError(f"{key}={path} has no rollouts/step_*.parquet: give the folder of a run")
    return {step_of(file): _groups(key, file, prompt) for file in files}


def _groups(key: str, file: Path, prompt: int) -> list[Group]:
    groups: dict[int, list[Answer]] = {}
    try:
        for batch in rollout_batches(file, ["prompt_id", "sample_id", "source", "token_ids"]):
            columns = [batch.column(name).to_pylist() for name in ("prompt_id", "sample_id", "source")]
            lengths = batch.column("token_ids").value_lengths().to_pylist()
            for prompt_id, sample_id, source, length in zip(*columns, lengths, strict=True):
                groups.setdefault(prompt_id, []).append(Answer(prompt_id, sample_id, _model(source), prompt, length))
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    return [tuple(group) for group in groups.values()]


def _model(source: str) -> Model:
    """Explorers may have names of their own."""
    return Model.learner if source == Model.learner.value else Model.explorer


def recorded_steps(key: str, path: str | Path, prompt: int) -> list[RecordedStep]:
    """The steps of a run that have both metrics and rollouts, without its first step, which warms up.

    The first step starts the grader's processes and fills caches. Raises UserError as `recorded_groups`, and if there
    are no such steps.
    """
    groups = recorded_groups(key, path, prompt)
    steps = [
        RecordedStep(line["step"], groups[line["step"]], _seconds(line))
        for line in read_metrics(RunDir(Path(path)).metrics)
        if line["step"] in groups and line["step"] > 1
    ]
    if not steps:
        raise UserError(f"{key}={path} has no steps after the first with metrics and rollouts: give a longer run")
    return steps


def recorded_lengths(groups: Sequence[Group]) -> list[dict[Model, tuple[int, ...]]]:
    """The lengths of each group by model, for `lengths.RecordedLengths`."""
    return [{model: tuple(one.length for one in group if one.model is model) for model in Model} for group in groups]


def middle_of(runs: Sequence[Sequence[RecordedStep]]) -> list[RecordedStep]:
    """One run of the medians of its repeats: of each step and phase on its own, so phases need not add up to `step`.

    Raises UserError if the runs have not the same steps.
    """
    for run in runs:
        if [step.step for step in run] != [step.step for step in runs[0]]:
            raise UserError("repeats of a run need the same steps: give runs of one configuration that have ended")
    middle = []
    for repeats in zip(*runs, strict=True):
        names = [name for name in repeats[0].seconds if all(name in step.seconds for step in repeats)]
        seconds = {name: median(step.seconds[name] for step in repeats) for name in names}
        middle.append(RecordedStep(repeats[0].step, repeats[0].groups, seconds))
    return middle


def _seconds(line: dict[str, float | None]) -> dict[str, float]:
    prefix = "time/"
    found = {name.removeprefix(prefix): value for name, value in line.items() if name.startswith(prefix) and value}
    if "step" not in found:
        raise UserError(f"step {line['step']} of metrics.jsonl has no {prefix}step: give a run of this project")
    found["outside"] = found["step"] - sum(found.get(phase, 0.0) for phase in WITHIN)
    return found
