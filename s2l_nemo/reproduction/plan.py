"""From experiments and seeds to jobs: commands in their order, each with its folder and its log."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from s2l_nemo.config.reproduction import ReproduceConfig, Scale, ToyFamily, root_of
from s2l_nemo.config.schema import Config
from s2l_nemo.reproduction.experiments import CONFIG_NAMES, SCALE_KEYS, Evaluation, Experiment, chosen

TRAIN, EVALUATE = "recipes/train_s2l.py", "recipes/evaluate.py"
EVALUATIONS = "evaluation"  # of a run, inside its folder


EXPLORERS = {one: f"models/{one.value}/explorer" for one in ToyFamily}
PROBLEMS, HELD_OUT = "problems", "held_out"  # folder in ROOT of the toy scale's benchmark, and its name
# Figure 2 at toy scale: all that training samples, asked as in training.
_TOY_MODELS = (
    f"benchmarks=[{HELD_OUT}]", "k=64", "evaluate.prompt=plain", "evaluate.temperature=1.0", "evaluate.top_p=1.0",
    "evaluate.top_k=0", "evaluate.presence_penalty=0.0", "evaluate.max_tokens=96", "evaluate.batch_rows=256",
)  # fmt: skip


class JobKind(str, Enum):
    train = "train"
    evaluate = "evaluate"  # a training run
    models = "models"  # a model before training


@dataclass(frozen=True)
class Job:
    """One command. `arguments` follow `python`; their first is a script, which may be given relative to the clone.

    `after` is the job that must be done before. `steps` are those of a training run, 0 of an evaluation.
    """

    name: str
    experiment: str
    seed: int
    kind: JobKind
    folder: Path
    log: Path
    arguments: tuple[str, ...]
    after: str | None = None
    steps: int = 0

    @property
    def command(self) -> str:
        """As one would type it in the clone."""
        return shlex.join(["python", *self.arguments])

    def argv(self, clone: Path) -> list[str]:
        """What is started: this Python, and the script of this clone, in whatever folder one is."""
        first, *rest = self.arguments
        script = clone / first
        return [sys.executable, str(script) if script.is_file() else first, *rest]


def make_plan(cfg: ReproduceConfig, load: Callable[[list[str]], Config]) -> list[Job]:
    """The jobs of all experiments. The first seed of every experiment comes first, so that a part is a whole too.

    `load` reads and checks the arguments of a training run: a mistake shows before the first run starts. Raises
    UserError for it, and for an experiment that does not exist.
    """
    experiments = chosen(list(cfg.experiments), cfg.scale)
    loaded = {one.name: load(training_arguments(one, cfg, 1)) for one in experiments}
    jobs = [job for one in experiments if one.models for job in _model_jobs(one, cfg, loaded[one.name])]
    runs = [one for one in experiments if not one.models]
    seeds_of = {one.name: list(cfg.seeds) or list(range(1, one.seeds + 1)) for one in runs}
    for turn in range(max(map(len, seeds_of.values()), default=0)):
        for one in runs:
            if turn < len(seeds_of[one.name]):
                jobs += _jobs_of(one, seeds_of[one.name][turn], cfg, loaded[one.name].algorithm.steps)
    return jobs


def run_folder(root: Path, experiment: str, seed: int) -> Path:
    """The folder of a training run."""
    return root / experiment / f"seed_{seed}"


def training_arguments(one: Experiment, cfg: ReproduceConfig, seed: int) -> list[str]:
    """What recipes/train_s2l.py gets for one run. `train_keys` of the user come after those of the tables."""
    where = [f"run.dir={run_folder(root_of(cfg), one.name, seed)}", f"run.seed={seed}"]
    preset = [] if one.preset is None else [f"experiment={one.preset}"]
    own = one.paper_keys
    if cfg.scale is Scale.toy:
        live = [f"explorer.path={EXPLORERS[cfg.family]}"] if one.stored else []
        own = (f"family={cfg.family.value}", *one.toy_keys, *live)
    return ["--config-name", CONFIG_NAMES[cfg.scale], *preset, *SCALE_KEYS[cfg.scale], *own, *cfg.train_keys, *where]


def _jobs_of(one: Experiment, seed: int, cfg: ReproduceConfig, steps: int) -> list[Job]:
    """The training run, and at paper scale the evaluations that follow it."""
    root = root_of(cfg)
    folder, name = run_folder(root, one.name, seed), f"{one.name}-seed_{seed}"
    arguments = training_arguments(one, cfg, seed)
    training = Job(name, one.name, seed, JobKind.train, folder, log_file(root, name), (TRAIN, *arguments), None, steps)
    if cfg.scale is Scale.toy:
        return [training]
    return [training, *(_evaluation(training, what, list(cfg.evaluate_keys), root) for what in one.evaluations)]


def _model_jobs(one: Experiment, cfg: ReproduceConfig, run: Config) -> list[Job]:
    """An evaluation of the explorer and one of the learner, with which the run would start."""
    root = root_of(cfg)
    folder = root / EVALUATIONS
    common = [*_TOY_MODELS, f"evaluate.data={root / PROBLEMS}"]
    if cfg.scale is Scale.paper:
        common = ["--config-name", "figure_2_base"]
    jobs = []
    for role, path in (("explorer", run.explorer.path), ("learner", run.model.path)):
        name = f"{role}-{one.name}"
        own = [*common, f"model={path}", f"name={role}", *cfg.evaluate_keys, f"evaluate.dir={folder}"]
        jobs.append(Job(name, role, 0, JobKind.models, folder, log_file(root, name), (EVALUATE, *own)))
    return jobs


def _evaluation(run: Job, what: Evaluation, keys: Sequence[str], root: Path) -> Job:
    name, folder = f"{run.name}-{what.preset}", run.folder / EVALUATIONS
    steps = "steps=all" if what.all_steps else f"steps=[{run.steps}]"
    arguments = ["--config-name", what.preset, f"model={run.folder}", steps, f"name={what.preset}", *keys]
    return Job(
        name, run.experiment, run.seed, JobKind.evaluate, folder, log_file(root, name),
        (EVALUATE, *arguments, f"evaluate.dir={folder}"), run.name,
    )  # fmt: skip


def log_file(root: Path, name: str) -> Path:
    """Where a job writes what it prints."""
    return root / "logs" / f"{name}.log"
