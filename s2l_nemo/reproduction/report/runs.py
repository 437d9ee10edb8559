"""What a folder of runs holds: experiments, their seeds, and what each run has left so far.

`ROOT/EXPERIMENT/seed_N/` are folders of recipes/train_s2l.py, finished or not, with evaluations of recipes/evaluate.py
in `evaluation/`. `ROOT/plan.json` may list the jobs that made them. A folder of one run is an experiment of one seed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from s2l_nemo.errors import UserError
from s2l_nemo.evaluation.results import BenchmarkResult, read_result
from s2l_nemo.evaluation.steps import is_curve, read_curve
from s2l_nemo.files import parse_json, read_json_object
from s2l_nemo.plain_yaml import NotPlain, load_plain
from s2l_nemo.records.directory import RunDir
from s2l_nemo.records.metrics import read_metrics
from s2l_nemo.trainer.validation import read_validation

_SEED = re.compile(r"seed_(\d+)")
_STEP = re.compile(r"step_(\d+)\.json")
_TIME = re.compile(r"_\d{8}-\d{6}$")
_RESTORE = "restore it or take it away"
_KINDS = {
    "run.seed": int, "algorithm.steps": int, "algorithm.prompts_per_step": int, "algorithm.group_size": int,
    "model.path": str, "explorer.path": str,
}  # fmt: skip
EVALUATED = ", checkpoints evaluated"  # ends the name of a curve
HELD_OUT = ""  # the name of the validation on held-out prompts; others have the name of their benchmark


class Job(NamedTuple):
    """One line of plan.json, as the runner wrote it."""

    experiment: str
    seed: int
    status: str
    command: str
    seconds: float | None


class Asked(NamedTuple):
    """One validation or evaluation: the problems, and what each sample of each was worth."""

    ids: Sequence[int | str]
    correct_PK: Sequence[Sequence[float]]

    @property
    def problems(self) -> int:
        return len(self.correct_PK)

    @property
    def samples(self) -> int:
        """The fewest of a problem."""
        return min(map(len, self.correct_PK))

    @property
    def rates_P(self) -> list[float]:
        """Of each problem the share of right samples: its pass@1."""
        return [sum(row) / len(row) for row in self.correct_PK]


@dataclass(frozen=True)
class Run:
    """One seed of an experiment. `metrics` has a line a step; `validations` are by name and step.

    `curves` are evaluations of its checkpoints, by name and step. `jobs` made it.
    """

    experiment: str
    seed: int
    folder: Path
    metrics: list[dict[str, Any]]
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    validations: dict[str, dict[int, Asked]]
    evaluations: list[BenchmarkResult]
    curves: dict[str, dict[int, Asked]] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)

    @property
    def over_steps(self) -> dict[str, dict[int, Asked]]:
        """Everything that was asked at several steps: validations, and evaluations of checkpoints."""
        return self.validations | self.curves

    def setting(self, key: str) -> Any:
        """A value of config.yaml, such as `algorithm.steps`; None if the file or the key is not there."""
        return value_at(self.config, key)

    @property
    def last_step(self) -> int:
        """0 before the first one."""
        return int(self.metrics[-1]["step"]) if self.metrics else 0

    @property
    def planned_steps(self) -> int | None:
        steps = self.setting("algorithm.steps")
        return steps if isinstance(steps, int) else None

    @property
    def is_finished(self) -> bool:
        """Whether the run has its summary and, if its configuration is known, all steps."""
        return self.summary.get("steps") is not None and self.last_step >= (self.planned_steps or 0)


@dataclass(frozen=True)
class Experiment:
    """The runs of one experiment, seeds ascending."""

    name: str
    runs: list[Run]

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.is_finished]

    @property
    def unfinished(self) -> list[Run]:
        """Those that have done a step, but not all."""
        return [run for run in self.runs if not run.is_finished and run.metrics]


@dataclass(frozen=True)
class Study:
    """Everything that a report is made of."""

    root: Path
    experiments: list[Experiment]
    jobs: list[Job] = field(default_factory=list)

    @cached_property
    def runs(self) -> list[Run]:
        return [run for experiment in self.experiments for run in experiment.runs]

    def find(self, names: Sequence[str]) -> Experiment | None:
        """The first experiment that has one of these names."""
        by_name = {experiment.name: experiment for experiment in self.experiments}
        return next((by_name[name] for name in names if name in by_name), None)

    @cached_property
    def sources(self) -> list[str]:
        """The names of samplers in the metrics: explorer, learner, then those of several explorers."""
        keys = [key for run in self.runs for line in run.metrics for key in line if key.startswith("pass@G/")]
        found = dict.fromkeys(key.removeprefix("pass@G/") for key in keys)
        return list(dict.fromkeys(["explorer", "learner", *found]))


def read_study(root: Path) -> Study:
    """Reads all runs below `root`. Raises UserError if there is none, or a file is damaged."""
    jobs = _read_jobs(root / "plan.json")
    if (root / RunDir(root).metrics.name).is_file() or (root / RunDir(root).config.name).is_file():
        name = root.resolve().name
        return Study(root, [Experiment(name, [_read_run(name, None, root, jobs)])], jobs)
    found: dict[str, list[Run]] = {job.experiment: [] for job in jobs}  # in the order of the plan
    for path in _seed_folders(root):
        found.setdefault(path.parent.name, [])
        found[path.parent.name].append(_read_run(path.parent.name, _seed_of(path), path, jobs))
    if not any(found.values()):
        raise UserError(f"{root} holds no run: give a folder of EXPERIMENT/seed_N, or that of one run (run.dir)")
    experiments = [Experiment(name, sorted(runs, key=lambda run: run.seed)) for name, runs in found.items() if runs]
    return Study(root, experiments, jobs)


def _seed_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        raise UserError(f"{root} is no folder: give one with EXPERIMENT/seed_N in it")
    return sorted(path for path in root.glob("*/seed_*") if path.is_dir() and _SEED.fullmatch(path.name))


def _seed_of(path: Path) -> int:
    return int(path.name.removeprefix("seed_"))


def _read_run(experiment: str, seed: int | None, folder: Path, jobs: Sequence[Job]) -> Run:
    directory = RunDir(folder)
    config = _settings(directory.config)
    if seed is None:
        seed = value_at(config, "run.seed") or 0
    return Run(
        experiment,
        seed,
        folder,
        read_metrics(directory.metrics),
        config,
        read_object(directory.summary),
        dict(_validations(directory.validation)),
        list(evaluations_of(folder / "evaluation")),
        dict(_curves(folder / "evaluation")),
        [job for job in jobs if (job.experiment, job.seed) == (experiment, seed)],
    )


def _settings(path: Path) -> dict[str, Any]:
    """config.yaml, {} if it is not there. Raises UserError if a key that the report reads is of another type."""
    config = read_yaml(path)
    for key, kind in _KINDS.items():
        value = value_at(config, key)
        if value is not None and type(value) is not kind:
            raise UserError(f"{path} has {key}={value!r:.80}, which is no {kind.__name__}: {_RESTORE}")
    return config


def value_at(config: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key; None if it is not there."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _validations(folder: Path) -> Iterator[tuple[str, dict[int, Asked]]]:
    for name, place in [(HELD_OUT, folder), *((path.name, path) for path in sorted(folder.glob("*")) if path.is_dir())]:
        steps = sorted(int(found[1]) for path in place.glob("step_*.json") if (found := _STEP.fullmatch(path.name)))
        asked = {step: _asked(place, step) for step in steps}
        if asked:
            yield name, asked


def _asked(folder: Path, step: int) -> Asked:
    content = read_validation(folder, step)
    if content is None:
        raise UserError(f"{folder}: the validation of step {step} has gone meanwhile: make the report again")
    return Asked(content["prompt_ids"], content["correct"])


def evaluations_of(folder: Path) -> Iterator[BenchmarkResult]:
    """The results of single models below `folder/result`, older ones first."""
    for place in sorted(path for path in (folder / "result").glob("*") if path.is_dir() and not is_curve(path)):
        yield from (read_result(file) for file in sorted(place.glob("*.json")) if file.name != "summary.json")


def _curves(folder: Path) -> Iterator[tuple[str, dict[int, Asked]]]:
    """The evaluations of a run step by step, by benchmark. Of several of a benchmark the newest counts."""
    for place in sorted(path for path in (folder / "result").glob("*") if is_curve(path)):
        points = read_curve(place).points
        for benchmark in dict.fromkeys(name for point in points for name in point.results):
            found = {point.step: point.results[benchmark] for point in points if benchmark in point.results}
            yield f"{benchmark}{EVALUATED}", {step: Asked(one.ids, one.correct_PK) for step, one in found.items()}


def evaluation_name(result: BenchmarkResult) -> str:
    """What the evaluation is called, without the time of its folder."""
    return _TIME.sub("", result.name)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of keys; {} if it is not there. Raises UserError if it is damaged."""
    if not path.is_file():
        return {}
    try:
        return load_plain(path.read_bytes()) or {}
    except NotPlain as error:
        raise UserError(f"{path} is damaged ({error}): restore it or take the run away") from None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; {} if the file is not there. Raises UserError if it holds something else."""
    return read_json_object(path, _RESTORE) if path.is_file() else {}


def read_json(path: Path) -> Any:
    """Any JSON. Raises UserError if the file is damaged."""
    try:
        return parse_json(path)
    except ValueError as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): {_RESTORE}") from None


def _read_jobs(path: Path) -> list[Job]:
    try:
        return [_job(one) for one in read_object(path).get("jobs", [])]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path} is no plan of the runner ({error!r:.200}): make it anew or take it away") from None


def _job(one: Any) -> Job:
    if not isinstance(one, Mapping):
        raise TypeError(f"{one!r:.40} is no job")
    command, seconds = one.get("command") or "", one.get("seconds")
    text = command if isinstance(command, str) else " ".join(map(str, command))
    name, seed, status = str(one["experiment"]), int(one["seed"]), str(one["status"])
    return Job(name, seed, status, text, None if seconds is None else float(seconds))
