"""Checks the simulation of a step against measured tiny runs: rates from one setting, predictions of others.

    python benchmarks/simulation.py [--repeats 7] [--runs FOLDER] [--output FILE]

Needs the tiny family (`python tools/make_tiny_family.py`). The calibration run has 16 prompts x G 8 and goes from the
explorer alone to the learner alone. From it come all rates, and the lengths of answers. The other settings are
predicted from these, and from their numbers of prompts and samples; nothing of their own runs is used. All settings run
in turns. The first step of each run is left out, because it fills caches. Answers are graded as text, because a run's
first symbolic check, at whatever step, starts processes for 1 to 3 s. The learning rate is so small that answers keep
their lengths.

A setting's measured time: of each step the repeat with the median time is taken, with all its phases, so that phases
add up to the step; then the mean over the steps. Rates come from medians over the repeats, phase by phase. The same is
done with the fastest repeat in place of the median, which other work on the machine disturbs less. "By sequences" is
what the calibration run says without a simulation: its seconds a sequence, times the sequences. With --runs the runs
are kept, and those that are there are not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from s2l_nemo.config.schema import Config
from s2l_nemo.data.prompts import load_prompts
from s2l_nemo.models.open import open_model
from s2l_nemo.planner.cost import Assumed
from s2l_nemo.planner.simulation.calibration import calibrated
from s2l_nemo.planner.simulation.lengths import RecordedLengths
from s2l_nemo.planner.simulation.outcome import phase_seconds
from s2l_nemo.planner.simulation.rates import Rates, Room
from s2l_nemo.planner.simulation.recorded import (
    RecordedStep,
    middle_of,
    recorded_config,
    recorded_lengths,
    recorded_steps,
)
from s2l_nemo.planner.simulation.step import Run, Scenario, draw_steps, play_steps

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


def train(setting: str, steps: int, folder: Path) -> Path:
    """The folder of a run of this setting, which is trained unless it is there."""
    if not (folder / "summary.json").exists():
        keys = {**BASE, "algorithm.steps": steps, **SETTINGS[setting]}
        if setting == CALIBRATION:
            keys["algorithm.schedule.t_mix"] = steps
        command = [sys.executable, str(ROOT / "recipes/train_s2l.py"), f"run.dir={folder}"]
        command += [f"{key}={value}" for key, value in keys.items()]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return folder


def measure(steps: int, repeats: int, folder: Path) -> dict[str, list[Path]]:
    """The runs of every setting, made in turns."""
    runs: dict[str, list[Path]] = {setting: [] for setting in SETTINGS}
    for repeat in range(repeats):
        for number, setting in enumerate(SETTINGS):
            runs[setting].append(train(setting, steps, folder / f"{number}-{repeat}"))
    return runs


def mean_prompt(cfg: Config) -> int:
    """Mean tokens of the training prompts, rounded."""
    tokenizer = open_model("model.path", cfg.model.path).tokenizer
    prompts = load_prompts(cfg.data, tokenizer, cfg.rollout.max_prompt_length, "train").prompts
    return round(mean(len(prompt.token_ids) for prompt in prompts))


def of_median_time(repeats: Sequence[Sequence[RecordedStep]]) -> list[RecordedStep]:
    """Of each step the repeat whose time is the median; their number is odd."""
    return [sorted(same, key=lambda step: step.seconds["step"])[len(same) // 2] for same in zip(*repeats, strict=True)]


def mean_phases(steps: Sequence[RecordedStep]) -> dict[str, float]:
    return {phase: mean(step.seconds.get(phase, 0.0) for step in steps) for phase in PHASES}


def sequences(step: RecordedStep) -> int:
    return sum(len(group) for group in step.groups)


def run_of(cfg: Config, rates: Rates, assumed: Assumed, lengths: RecordedLengths, explorer: int) -> Run:
    shape, room = open_model("model.path", cfg.model.path).shape, Room(cfg.rollout.max_batch_rows)
    return Run(cfg, shape, rates, (room, room), assumed, lengths, explorer)


def check(setting: str, runs: Sequence[Path], rates: Rates, calibration: Sequence[RecordedStep], prompt: int) -> Result:
    """Predicts one setting from the calibration's rates and lengths."""
    cfg = recorded_config("runs", runs[0])
    repeats = [recorded_steps("runs", run, prompt) for run in runs]
    middle = of_median_time(repeats)
    groups = [group for step in calibration for group in step.groups]
    length = round(mean(answer.length for group in groups for answer in group))
    assumed = Assumed(length, prompt, 1.0, 1.0, 1.0)
    lengths = RecordedLengths(recorded_lengths(groups), prompt, cfg.rollout.max_response_length)
    explorer = sum(answer.model.value == "explorer" for answer in middle[0].groups[0])
    run = run_of(cfg, rates, assumed, lengths, explorer)
    if setting == CALIBRATION:  # its own steps, played with their own lengths
        played = play_steps(run, Scenario(), [step.groups for step in calibration])
    else:
        played = play_steps(run, Scenario(), draw_steps(run, DRAWN, seed=0))
    predicted = phase_seconds(played)
    measured = mean(step.seconds["step"] for step in middle)
    total = sum(predicted.values())
    calibrated_s = mean(step.seconds["step"] for step in calibration)
    ratio = sequences(middle[0]) / sequences(calibration[0])
    means = [mean(step.seconds["step"] for step in repeat) for repeat in repeats]
    return Result(
        setting=setting,
        measured=measured,
        predicted=total,
        error=total / measured - 1,
        by_sequences=calibrated_s * ratio / measured - 1,
        lowest=min(means),
        highest=max(means),
        measured_phases=mean_phases(middle),
        predicted_phases=predicted,
    )


def report(results: Sequence[Result], console: Console) -> None:
    table = Table("setting", "measured s", "repeats", "predicted s", "error", "by sequences")
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="an odd number")
    parser.add_argument("--steps", type=int, default=13, help="of each run, the first of which is left out")
    parser.add_argument("--runs", type=Path, help="folder to keep the runs in")
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        runs = measure(options.steps, options.repeats, options.runs or Path(temporary))
        cfg = recorded_config("runs", runs[CALIBRATION][0])
        prompt = mean_prompt(cfg)
        calibration = middle_of([recorded_steps("runs", run, prompt) for run in runs[CALIBRATION]])
        length = round(mean(answer.length for step in calibration for group in step.groups for answer in group))
        learner = open_model("model.path", cfg.model.path).shape
        explorer = open_model("explorer.path", str(cfg.explorer.path)).shape
        rates = calibrated(cfg, learner, explorer, calibration, Assumed(length, prompt, 1.0, 1.0, 1.0))
        results = [check(setting, runs[setting], rates, calibration, prompt) for setting in SETTINGS]
    report(results, Console(width=140))
    if options.output:
        machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        settings = {"repeats": options.repeats, "steps": options.steps, "base": BASE, "settings": SETTINGS}
        found = [asdict(result) for result in results]
        content = {**machine, **settings, "prompt": prompt, "results": found}
        options.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
