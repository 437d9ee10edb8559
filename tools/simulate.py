"""Simulates a training step on 8 to 1,024 GPUs: a timeline, who waits for whom, and what another order would change.

    python tools/simulate.py conf=paper algorithm.mini_batch_prompts=1024 gpus=[8,64,1024] [key=value ...]

conf=NAME is the preset. Keys not listed here are those of recipes/train_s2l.py. Method: docs/planner.md, "Simulation".
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from statistics import mean
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone without installation

from rich.console import Console
from rich.table import Table
from rich.text import Text

from s2l_nemo.config.checks import check_config, check_ranges
from s2l_nemo.config.load import load_config, load_values
from s2l_nemo.config.schema import Config
from s2l_nemo.errors import UserError
from s2l_nemo.planner import cost
from s2l_nemo.planner.simulation.calibration import calibration_of
from s2l_nemo.planner.simulation.compare import Question, explorer_samples, play_all
from s2l_nemo.planner.simulation.layout import at_size, played_shapes
from s2l_nemo.planner.simulation.lengths import Distribution, Group, Lengths, Model, NamedLengths, RecordedLengths
from s2l_nemo.planner.simulation.options import SimulateOptions, check_given, check_played
from s2l_nemo.planner.simulation.outcome import Outcome, outcome_of
from s2l_nemo.planner.simulation.recorded import recorded_groups, recorded_lengths
from s2l_nemo.planner.simulation.step import Played
from s2l_nemo.planner.simulation.timeline import Phase
from s2l_nemo.platform.failures import command

CONF = Path(__file__).resolve().parent.parent / "conf"
OWN_KEYS = {field.name for field in fields(SimulateOptions)}
WIDTH = 120
Shown = TypeVar("Shown")
BINS = 88  # of a timeline
MARKS = {
    Phase.explorer: ("e", "cyan"),
    Phase.learner: ("l", "blue"),
    Phase.both: ("b", "bright_blue"),
    Phase.wake: ("w", "white"),
    Phase.exchange: ("x", "magenta"),
    Phase.grading: ("g", "magenta"),
    Phase.sleep: ("s", "white"),
    Phase.logprobs: ("p", "yellow"),
    Phase.update: ("u", "green"),
    Phase.refit: ("r", "red"),
    Phase.outside: ("o", "white"),
}


@command
def main(argv: list[str]) -> int:
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    own = [argument for argument in argv if argument.partition("=")[0] in OWN_KEYS or argument in ("-h", "--help")]
    options = load_values(own, SimulateOptions, str(__doc__))
    check_ranges(options, SimulateOptions)
    others = [argument for argument in argv if argument not in own]
    if any(argument.startswith("trainer.num_nodes=") for argument in others):
        raise UserError("trainer.num_nodes does nothing here: gpus= says how many nodes there are; leave it out")
    cfg = load_config(["--config-name", options.conf, *others], CONF)
    check_config(cfg)
    check_given(options, cfg, {argument.partition("=")[0] for argument in own})
    check_played(cfg)
    question, source = asked(options, cfg)
    sizes = {gpus: at_size(cfg, gpus) for gpus in options.gpus}
    played = {gpus: play_all(question, its) for gpus, its in sizes.items()}
    if options.show:
        for gpus, its in played.items():
            console.print(timeline_table(present(its), gpus, options.show), "")
        console.print(legend(), "")
    outcomes = {
        gpus: {name: outcome_of(one) if one else None for name, one in its.items()} for gpus, its in played.items()
    }
    console.print(step_table({gpus: present(its) for gpus, its in outcomes.items()}), "")
    console.print(comparison_table(outcomes), "")
    for line in notes(question, cfg, source):
        console.print(line, markup=False, highlight=False)
    return 0


def asked(options: SimulateOptions, cfg: Config) -> tuple[Question, str]:
    """What is to be played, and where its lengths come from."""
    learner, explorer = played_shapes(cfg)
    assumed, rates = cost.assumed_of(options, cfg), None
    most = cfg.rollout.max_response_length
    std = options.std if options.std is not None else assumed.length / 2
    lengths: Lengths = NamedLengths(options.lengths, assumed.length, std, options.alike, assumed.prompt, most)
    deviation = f" and std {std:g}" if options.lengths is Distribution.lognormal else ""
    source = f"{options.lengths.value}, mean {assumed.length}{deviation} before the cut at {most}"
    groups: list[Group] = []
    if options.calibrate:
        rates, steps = calibration_of(list(options.calibrate), cfg, assumed.prompt)
        groups, source = [group for step in steps for group in step.groups], options.calibrate[0]
    if options.recorded is not None:
        by_step = recorded_groups("recorded", options.recorded, assumed.prompt)
        groups, source = [group for its in by_step.values() for group in its], options.recorded
    if groups:
        mean_length = round(mean(answer.length for group in groups for answer in group))
        assumed = replace(assumed, length=mean_length)
        lengths = RecordedLengths(recorded_lengths(groups), assumed.prompt, most)
        source = f"those of the rollouts in {source}, mean {mean_length}, cut at {most}"
    samples = explorer_samples(options, cfg)
    if rates is not None and rates.explorer is None and samples:
        raise UserError(f"explorer={samples}: the run of calibrate has no explorer to measure: give explorer=0")
    gpu = next(gpu for gpu in cost.GPUS if gpu.name == options.gpu.value)
    return Question(options, learner, explorer, gpu, assumed, lengths, samples, rates), source


def present(found: dict[str, Shown | None]) -> Shown:
    """The first one, which is the run as it is configured."""
    first = next(iter(found.values()))
    assert first is not None
    return first


def timeline_table(played: Played, gpus: int, show: int) -> Table:
    """The last step on a few devices, evenly chosen."""
    step, users = played.steps[-1], played.layout.users
    count = min(show, gpus)
    devices = sorted({round(number * (gpus - 1) / max(1, count - 1)) for number in range(count)})
    title = f"{gpus:,} GPUs: one step, {step.end - step.start:,.1f} s"
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None)
    for device in devices:
        bar = Text()
        for phase in played.timeline.bins(device, step.start, step.end, BINS):
            bar.append(*(MARKS[phase] if phase else (".", "dim")))
        table.add_row(f"{device}", users[device], bar)
    return table


def legend() -> Text:
    text = Text()
    for phase, (mark, style) in MARKS.items():
        text.append(mark, style).append(f" {phase.value}  ")
    return text.append(". waits")


def step_table(outcomes: dict[int, Outcome]) -> Table:
    table = new_table("One step", [f"{gpus:,} GPUs" for gpus in outcomes])
    for name, cell in step_rows():
        table.add_row(name, *(cell(outcome) for outcome in outcomes.values()))
    return table


def step_rows() -> Iterator[tuple[str, Callable[[Outcome], str]]]:
    yield "seconds", lambda it: f"{it.step_s:,.2f}"
    yield "until the last answer", lambda it: f"{it.sampling_s:,.2f}"
    yield "log-probs and updates", lambda it: f"{it.training_s:,.2f}"
    yield "tokens/s", lambda it: f"{it.tokens_per_s:,.0f}"
    yield "rows that decode together, explorer", lambda it: rows(it, Model.explorer)
    yield "rows that decode together, learner", lambda it: rows(it, Model.learner)
    yield "rows put off for lack of cache, per answer", lambda it: f"{it.put_off:.2f}"
    yield "share of GPU time: sampling", lambda it: f"{it.sampling:.1%}"
    yield "share of GPU time: log-probs and updates", lambda it: f"{it.training:.1%}"
    yield "share of GPU time: other phases", lambda it: f"{1 - it.sampling - it.training - it.idle:.1%}"
    yield "share of GPU time: idle", lambda it: f"{it.idle:.1%}"
    yield "  while others sample", lambda it: f"{it.idle_sampling:.1%}"
    yield "  while others train", lambda it: f"{it.idle_training:.1%}"
    yield "  in other phases", lambda it: f"{it.idle_between:.1%}"


def comparison_table(outcomes: dict[int, dict[str, Outcome | None]]) -> Table:
    table = new_table("Seconds of a step, and idle share", [f"{gpus:,} GPUs" for gpus in outcomes])
    names = list(next(iter(outcomes.values())))
    for name in names:
        table.add_row(name, *(compared(its[name], present(its)) for its in outcomes.values()))
    return table


def compared(outcome: Outcome | None, configured: Outcome) -> str:
    if outcome is None:
        return "not possible"
    change = "" if outcome is configured else f" ({outcome.step_s / configured.step_s - 1:+.1%})"
    return f"{outcome.step_s:,.2f}{change}, {outcome.idle:.1%}"


def rows(outcome: Outcome, model: Model) -> str:
    return f"{outcome.rows[model]:.1f}" if model in outcome.rows else ""


def new_table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def notes(question: Question, cfg: Config, source: str) -> Iterator[str]:
    options, assumed = question.options, question.assumed
    rates = (
        f"a measured run, {options.calibrate[0]}" if question.rates else f"the data sheet of the {options.gpu.value}"
    )
    yield f"A simulation, not a measurement (docs/planner.md). Rates: {rates}. Assumed, and how to change it:"
    yield f"  lengths of responses: {source}; prompts have {assumed.prompt} tokens"
    yield (
        f"  explorer={question.explorer_samples} of the {cfg.algorithm.group_size} samples of a group; "
        f"steps={options.steps} are played, figures leave out the first; seed={options.seed}"
    )
    if question.rates is None:
        yield (
            f"  bandwidth={assumed.bandwidth:g} and mfu={assumed.mfu:g} of the peaks, "
            f"refit_gb_s={assumed.refit_gb_s:g}, exchange_gb_s={options.exchange_gb_s:g}, "
            f"host_gb_s={options.host_gb_s:g}, grades_per_s={options.grades_per_s:g}"
        )
        if options.recorded is None:
            yield f"  alike={options.alike:g} of the variance of a length is that of its prompt"
    if not cost.kind_of(cfg).served:
        yield f"  engine.kind={cfg.engine.kind}: engines with GPUs of their own need servers, such as engine.kind=vllm"
    yield "  whether it fits the memory: tools/plan.py"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
