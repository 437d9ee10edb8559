"""Checks the simulation of a step against measured tiny runs: rates from one setting, predictions of others.

    python benchmarks/simulation.py [--clocks wall cpu] [--repeats 5] [--runs FOLDER] [--output FILE]

Needs the tiny family (`python tools/make_tiny_family.py`). The calibration run has 16 prompts x G 8 and goes from the
explorer alone to the learner alone. From it come all rates, and the lengths of answers. The other settings are
predicted from these, and from their numbers of prompts and samples; nothing of their own runs is used. All settings run
in turns. The first step of each run is left out, because it fills caches. Answers are graded as text, because a run's
first symbolic check, at whatever step, starts processes for 1 to 3 s. The learning rate is so small that answers keep
their lengths.

Two clocks: `wall` is what a run's metrics hold. With `cpu` the trainer is given the CPU time of its rank as its clock.
It stands still while the rank waits for another one or for a core, so it tells on a busy machine about what an idle one
would need.

Two statistics, each for the rates and for what is compared with them. `median`: rates come from medians over the
repeats, phase by phase; of each step the repeat of median time is compared, with all its phases, so that they add up.
`fastest`: the shortest time of each phase of each step, and their sum as the step. A setting's time is the mean over
its steps. "By sequences" is what the calibration run says without a simulation: its seconds a sequence, times the
sequences. With --runs the runs are kept, and those that are there are not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from s2l_nemo.config.checks import check_model_files
from s2l_nemo.config.load import load_config
from s2l_nemo.config.schema import Config
from s2l_nemo.data.prompts import load_prompts
from s2l_nemo.models.open import open_model
from s2l_nemo.planner.cost import Assumed
from s2l_nemo.planner.simulation.calibration import calibrated
from s2l_nemo.planner.simulation.lengths import Model, RecordedLengths
from s2l_nemo.planner.simulation.outcome import phase_seconds
from s2l_nemo.planner.simulation.rates import Rates, Room
from s2l_nemo.planner.simulation.recorded import (
    RecordedStep,
    middle_of,
    recorded_lengths,
    recorded_steps,
)
from s2l_nemo.planner.simulation.step import Run, Scenario, draw_steps, play_steps
from s2l_nemo.records.directory import read_config
from s2l_nemo.records.metrics import read_metrics

ROOT = Path(__file__).resolve().parent.parent
BASE = {
    "run.save_nemo": "false", "validation.every": 0, "validation.prompts": 1, "validation.samples": 1,
    "checkpoint.every": 1000, "model.micro_batch_size": 64, "model.optim.lr": 1e-7, "rewards.answer": "exact",
    "algorithm.prompts_per_step": 16, "algorithm.group_size": 8,
}  # fmt: skip
ALONE = {"algorithm.schedule.name": "none", "explorer.path": "null"}
HALF = {"algorithm.schedule.name": "constant", "algorithm.schedule.alpha": 0.5}
CALIBRATION = "calibration: P 16, G 8, linear"
SETTINGS: dict[str, dict[str, Any]] = {
    CALIBRATION: {"algorithm.schedule.name": "linear"},
    "P 32, G 8, learner": {**ALONE, "algorithm.prompts_per_step": 32},
    "P 16, G 16, learner": {**ALONE, "algorithm.group_size": 16},
    "P 16, G 8, half explorer": HALF,
    "P 32, G 16, half explorer": {**HALF, "algorithm.prompts_per_step": 32, "algorithm.group_size": 16},
}
PHASES = ("rollout", "exchange", "reward", "logprobs", "update", "refit", "outside")
DRAWN = 24  # steps that are simulated for a prediction


class Clock(str, Enum):
    """See above."""

    wall = "wall"
    cpu = "cpu"


class Statistic(str, Enum):
    """See above."""

    median = "median"
    fastest = "fastest"


@dataclass(frozen=True)
class Calibration:
    """Rates, the steps from which they come, and the same steps as they are compared."""

    rates: Rates
    assumed: Assumed
    steps: list[RecordedStep]
    compared: list[RecordedStep]


@dataclass(frozen=True)
class Result:
    """Mean seconds of a step of one setting."""

    setting: str
    measured: float
    predicted: float
    error: float  # predicted / measured - 1
    by_sequences: float  # the error of the calibration's seconds a sequence
    lowest: float  # mean step of the fastest repeat
    highest: float
    measured_phases: dict[str, float]
    predicted_phases: dict[str, float]


def train(setting: str, steps: int, clock: Clock, folder: Path) -> Path:
    """The folder of a run of this setting, which is trained unless it is there."""
    if len(read_metrics(folder / "metrics.jsonl")) < steps:
        keys = {**BASE, "algorithm.steps": steps, "run.dir": folder, "run.resume": "never", **SETTINGS[setting]}
        if setting == CALIBRATION:
            keys["algorithm.schedule.t_mix"] = steps
        script = [str(ROOT / "recipes/train_s2l.py")] if clock is Clock.wall else [__file__, "--train"]
        command = [sys.executable, *script, *(f"{key}={value}" for key, value in keys.items())]
        own = {"OMP_WAIT_POLICY": "PASSIVE", "TORCH_CPP_LOG_LEVEL": "ERROR", "TOKENIZERS_PARALLELISM": "false"}
        subprocess.run(command, cwd=ROOT, env=os.environ | own, check=True, stdout=subprocess.DEVNULL)
    return folder


def train_by_cpu_time(overrides: list[str]) -> int:
    """As recipes/train_s2l.py, with the CPU time of each rank for the seconds of its metrics."""
    from s2l_nemo.platform.launch import launch
    from s2l_nemo.trainer.setup import build_trainer, load_inputs
    from s2l_nemo.trainer.start import preload
    from s2l_nemo.trainer.stop import StopRequest

    cfg = load_config(overrides, ROOT / "conf")
    inputs = load_inputs(cfg, check_model_files(cfg))

    def run() -> None:
        preload()
        trainer = replace(build_trainer(cfg, inputs, StopRequest), now=time.process_time)
        try:
            trainer.fit()
        finally:
            trainer.recorder.close()
            trainer.rollouts.close()

    return launch(run, devices=cfg.trainer.devices, num_nodes=1, on_gpu=False, preload=preload)


def measure(clocks: Sequence[Clock], steps: int, repeats: int, folder: Path) -> dict[tuple[Clock, str], list[Path]]:
    """The runs of every clock and setting, made in turns."""
    runs: dict[tuple[Clock, str], list[Path]] = {}
    for repeat in range(repeats):
        for clock in clocks:
            for number, setting in enumerate(SETTINGS):
                run = train(setting, steps, clock, folder / f"{clock.value}-{number}-{repeat}")
                runs.setdefault((clock, setting), []).append(run)
    return runs


def mean_prompt(cfg: Config) -> int:
    """Mean tokens of the training prompts, rounded."""
    tokenizer = open_model("model.path", cfg.model.path).tokenizer
    prompts = load_prompts(cfg.data, tokenizer, cfg.rollout.max_prompt_length, "train").prompts
    return round(mean(len(prompt.token_ids) for prompt in prompts))


def repeats_as_one(repeats: Sequence[Sequence[RecordedStep]], statistic: Statistic) -> list[RecordedStep]:
    """What is compared with predictions: one run, in which the phases of a step add up to it."""
    if statistic is Statistic.median:
        by_time = (sorted(same, key=lambda step: step.seconds["step"]) for same in zip(*repeats, strict=True))
        return [same[len(same) // 2] for same in by_time]
    return fastest(repeats)


def repeats_for_rates(repeats: Sequence[Sequence[RecordedStep]], statistic: Statistic) -> list[RecordedStep]:
    """What rates come from."""
    return middle_of(repeats) if statistic is Statistic.median else fastest(repeats)


def fastest(repeats: Sequence[Sequence[RecordedStep]]) -> list[RecordedStep]:
    """The shortest time of each phase of each step, and their sum as the step."""
    found = []
    for same in zip(*repeats, strict=True):
        seconds = {name: min(step.seconds[name] for step in same) for name in same[0].seconds}
        seconds["step"] = sum(seconds.get(name, 0.0) for name in PHASES)
        found.append(replace(same[0], seconds=seconds))
    return found


def mean_phases(steps: Sequence[RecordedStep]) -> dict[str, float]:
    return {phase: mean(step.seconds.get(phase, 0.0) for step in steps) for phase in PHASES}


def sequences(step: RecordedStep) -> int:
    return sum(len(group) for group in step.groups)


def run_of(cfg: Config, rates: Rates, assumed: Assumed, lengths: RecordedLengths, explorer: int) -> Run:
    shape, room = open_model("model.path", cfg.model.path).shape, Room(cfg.rollout.max_batch_rows)
    return Run(cfg, shape, rates, (room, room), assumed, lengths, explorer)


def check(
    setting: str, repeats: Sequence[Sequence[RecordedStep]], statistic: Statistic, cfg: Config, source: Calibration
) -> Result:
    """Predicts one setting, whose configuration is `cfg`, from the rates and lengths of the calibration."""
    steps = repeats_as_one(repeats, statistic)
    groups = [group for step in source.steps for group in step.groups]
    lengths = RecordedLengths(recorded_lengths(groups), source.assumed.prompt, cfg.rollout.max_response_length)
    explorer = sum(answer.model is Model.explorer for answer in steps[0].groups[0])
    run = run_of(cfg, source.rates, source.assumed, lengths, explorer)
    if setting == CALIBRATION:  # its own steps, played with their own lengths
        played = play_steps(run, Scenario(), [step.groups for step in source.steps])
    else:
        played = play_steps(run, Scenario(), draw_steps(run, DRAWN, seed=0))
    measured, predicted = mean(step.seconds["step"] for step in steps), phase_seconds(played)
    of_sequences = mean(step.seconds["step"] for step in source.compared) * sequences(steps[0])
    means = [mean(step.seconds["step"] for step in repeat) for repeat in repeats]
    return Result(
        setting=setting,
        measured=measured,
        predicted=sum(predicted.values()),
        error=sum(predicted.values()) / measured - 1,
        by_sequences=of_sequences / sequences(source.steps[0]) / measured - 1,
        lowest=min(means),
        highest=max(means),
        measured_phases=mean_phases(steps),
        predicted_phases=predicted,
    )


def check_all(runs: dict[str, list[Path]], statistic: Statistic) -> list[Result]:
    """Calibrates on the first setting and predicts all."""
    cfg = read_config("runs", runs[CALIBRATION][0])
    prompt = mean_prompt(cfg)
    repeats = {setting: [recorded_steps("runs", run, prompt) for run in its] for setting, its in runs.items()}
    steps = repeats_for_rates(repeats[CALIBRATION], statistic)
    length = round(mean(answer.length for step in steps for group in step.groups for answer in group))
    assumed = Assumed(length, prompt, 1.0, 1.0, 1.0)
    learner, explorer = (open_model("", path).shape for path in (cfg.model.path, str(cfg.explorer.path)))
    rates = calibrated(cfg, learner, explorer, steps, assumed)
    source = Calibration(rates, assumed, steps, repeats_as_one(repeats[CALIBRATION], statistic))
    return [
        check(setting, repeats[setting], statistic, read_config("runs", its[0]), source)
        for setting, its in runs.items()
    ]


def report(title: str, results: Sequence[Result], console: Console) -> None:
    table = Table("setting", "measured s", "repeats", "predicted s", "error", "by sequences", title=title)
    for one in results:
        repeats = f"{one.lowest:.2f} to {one.highest:.2f}"
        errors = f"{one.error:+.1%}", f"{one.by_sequences:+.1%}"
        table.add_row(one.setting, f"{one.measured:.3f}", repeats, f"{one.predicted:.3f}", *errors)
    console.print(table)
    phases = Table("measured / predicted s", *PHASES)
    for one in results:
        cells = (f"{one.measured_phases[name]:.3f} / {one.predicted_phases[name]:.3f}" for name in PHASES)
        phases.add_row(one.setting, *cells)
    console.print(phases)


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clocks", type=Clock, nargs="+", default=list(Clock))
    parser.add_argument("--repeats", type=int, default=5, help="an odd number")
    parser.add_argument("--steps", type=int, default=13, help="of each run, the first of which is left out")
    parser.add_argument("--runs", type=Path, help="folder to keep the runs in")
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    if argv[:1] == ["--train"]:  # this script starts itself so
        return train_by_cpu_time(argv[1:])
    options, results = parse_args(argv), {}
    with tempfile.TemporaryDirectory() as temporary:
        runs = measure(options.clocks, options.steps, options.repeats, options.runs or Path(temporary))
        for clock in options.clocks:
            for statistic in Statistic:
                of_clock = {setting: runs[clock, setting] for setting in SETTINGS}
                results[clock.value, statistic.value] = check_all(of_clock, statistic)
    for (clock_name, name), found in results.items():
        report(f"{clock_name} clock, {name} of {options.repeats} repeats", found, Console(width=140))
    if options.output:
        machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        settings = {"repeats": options.repeats, "steps": options.steps, "base": BASE, "settings": SETTINGS}
        as_json = {" ".join(names): [asdict(result) for result in found] for names, found in results.items()}
        options.output.write_text(json.dumps({**machine, **settings, "results": as_json}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
