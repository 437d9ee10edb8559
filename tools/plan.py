"""Predicts memory and time of a run, and what the explorer saves, on L20, H100 and H200, from its configuration.

    python tools/plan.py conf=paper trainer.num_nodes=2 [gpu=H100] [length=TOKENS] [key=value ...]

conf=NAME is the preset. Other keys are those of recipes/train_s2l.py. Formulas: docs/planner.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone without installation

from rich.console import Console
from rich.table import Table

from s2l_nemo.config.checks import check_config, check_ranges
from s2l_nemo.config.load import load_config, load_values
from s2l_nemo.config.schema import Config
from s2l_nemo.errors import UserError
from s2l_nemo.models.shape import ModelShape
from s2l_nemo.planner import cost
from s2l_nemo.planner.memory import (
    Phase,
    explorer_engines,
    figures_of_models,
    host_memory_by_part,
    layout,
    memory_by_part,
    memory_by_phase,
    shapes_of_models,
)
from s2l_nemo.planner.plan import counts_of_step
from s2l_nemo.platform.failures import command

CONF = Path(__file__).resolve().parent.parent / "conf"
OWN_KEYS = {field.name for field in fields(cost.PlanOptions)}
WIDTH = 120
Cell = Callable[[cost.Prediction], str]


@command
def main(argv: list[str]) -> int:
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    own = [argument for argument in argv if argument.partition("=")[0] in OWN_KEYS or argument in ("-h", "--help")]
    options = load_values(own, cost.PlanOptions, str(__doc__))
    check_ranges(options, cost.PlanOptions)
    cfg = load_config(["--config-name", options.conf, *(rest for rest in argv if rest not in own)], CONF)
    check_config(cfg)
    if cfg.rollout.replay is not None:
        raise UserError(
            f"rollout.replay={cfg.rollout.replay}: nothing is sampled in such a run; leave it out, or use "
            "run.dry_run=true for its memory"
        )
    assumed = cost.assumed_of(options, cfg)
    of_learner, of_explorers = figures_of_models(cfg)
    learner, explorers = shapes_of_models(cfg)
    gpus = [gpu for gpu in cost.GPUS if options.gpu in (None, cost.GpuName(gpu.name))]
    predictions = [cost.predict(cfg, learner, explorers, gpu, assumed) for gpu in gpus]
    names = [one.name for one in explorer_engines(cfg)]
    say(console, f"learner: {of_learner.source}")
    for name, figures in zip(names, of_explorers, strict=True):
        say(console, f"{name}: {figures.source}")
    if not names:
        say(console, f"explorer: {'stored rollouts' if cost.mean_alpha(cfg) else 'none (plain GRPO)'}")
    say(console, f"{gpus_of(cfg)}\n")
    console.print(token_table(cfg, assumed), "")
    console.print(memory_table(cfg, learner, explorers, gpus), "")
    console.print(host_table(cfg, learner, explorers), "")
    console.print(time_table(predictions), "")
    if explorers:
        console.print(saving_table(predictions, names), "")
    for line in assumptions(cfg, assumed):
        say(console, line)
    return 0


def say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False)


def gpus_of(cfg: Config) -> str:
    engines = cost.engines_of(cfg)
    return (
        f"{cfg.trainer.num_nodes} x {cfg.trainer.devices} GPUs, {layout(cfg)}; engine.kind={cfg.engine.kind}: "
        f"{engines.count} of each engine, on {engines.gpus} x GPU each"
    )


def token_table(cfg: Config, assumed: cost.Assumed) -> Table:
    rollout, step = cfg.rollout, counts_of_step(cfg)
    longest = rollout.max_prompt_length + rollout.max_response_length
    table = new_table("One step", "at mean length", "at most")
    for name, at_mean, at_most in (
        ("sequences", step.sequences, step.sequences),
        ("generated tokens", step.sequences * assumed.length, step.sequences * rollout.max_response_length),
        (
            "trained tokens, with prompts",
            step.trained_sequences * (assumed.prompt + assumed.length),
            step.trained_sequences * longest,
        ),
        ("optimizer steps", step.updates, step.updates),
    ):
        table.add_row(name, f"{at_mean:,}", f"{at_most:,}")
    return table


def memory_table(cfg: Config, learner: ModelShape, explorers: list[ModelShape], gpus: list[cost.Gpu]) -> Table:
    table = new_table("Memory of the fullest GPU, GiB", *(f"{gpu.name} ({gib(gpu.memory)})" for gpu in gpus))
    by_gpu = [memory_by_part(cfg, learner, explorers, gpu.memory) for gpu in gpus]
    for part in by_gpu[0]:
        table.add_row(part.value, *(gib(parts[part]) for parts in by_gpu))
    table.add_section()
    totals = [memory_by_phase(cfg, parts) for parts in by_gpu]
    for phase in Phase:
        cells = [fit(total[phase], gpu) for total, gpu in zip(totals, gpus, strict=True)]
        table.add_row(f"on the device while {phase.value}", *cells)
    return table


def host_table(cfg: Config, learner: ModelShape, explorers: list[ModelShape]) -> Table:
    table = new_table("Host memory of a node, GiB", "at most")
    parts = host_memory_by_part(cfg, learner, explorers)
    for part, count in parts.items():
        table.add_row(part.value, gib(count))
    table.add_section()
    table.add_row("all of them", gib(sum(parts.values())))
    return table


def fit(needed: int, gpu: cost.Gpu) -> str:
    over = needed - gpu.usable
    return f"{gib(needed)} [red]over by {gib(over)}[/red]" if over > 0 else f"{gib(needed)} [green]fits[/green]"


def time_table(predictions: list[cost.Prediction]) -> Table:
    table = new_table("Predicted seconds", *(prediction.gpu.name for prediction in predictions))
    add_row(table, "explorer rollouts, mean", predictions, lambda p: seconds(average(p, lambda step: step.explorer)))
    add_row(table, "learner rollouts, mean", predictions, lambda p: seconds(average(p, lambda step: step.learner)))
    add_row(
        table, "log-probs, old and reference", predictions, lambda p: seconds(average(p, lambda step: step.logprobs))
    )
    add_row(table, "update", predictions, lambda p: seconds(average(p, lambda step: step.update)))
    add_row(table, "refit", predictions, lambda p: seconds(average(p, lambda step: step.refit)))
    table.add_section()
    add_row(table, "step, mean over the run", predictions, lambda p: seconds(average(p, lambda step: step.total)))
    add_row(table, "first step", predictions, lambda p: seconds(p.steps[0].total))
    add_row(table, "last step", predictions, lambda p: seconds(p.steps[-1].total))
    add_row(table, "step of GRPO, learner alone", predictions, lambda p: seconds(p.grpo.total))
    add_row(table, "whole run, hours", predictions, lambda p: f"{sum(step.total for step in p.steps) / 3600:,.1f}")
    return table


def saving_table(predictions: list[cost.Prediction], names: list[str]) -> Table:
    table = new_table("Predicted saving of the explorer", *(prediction.gpu.name for prediction in predictions))
    for name, cell in [*decoding_rows("learner", lambda p: p.learner), *explorer_rows(names), *saving_rows()]:
        add_row(table, name, predictions, cell)
    return table


def decoding_rows(name: str, of: Callable[[cost.Prediction], cost.Decoding]) -> Iterator[tuple[str, Cell]]:
    yield f"{name} tokens/s of a GPU, KV memory full*", lambda p: rate(of(p).full_tokens_per_s)
    yield f"rows that decode together, {name}", lambda p: f"{of(p).rows:,.0f}"
    yield f"{name} tokens/s of all GPUs, as configured", lambda p: rate(of(p).tokens_per_s)


def explorer_rows(names: list[str]) -> Iterator[tuple[str, Cell]]:
    for number, name in enumerate(names):

        def of(prediction: cost.Prediction, number: int = number) -> cost.Decoding:
            return prediction.explorers[number]

        yield from decoding_rows(name, of)
        yield f"{name} over learner, KV memory full*", lambda p, of=of: full_ratio(p.learner, of(p))  # type: ignore[misc]


def saving_rows() -> Iterator[tuple[str, Cell]]:
    yield "explorer over learner (c_s/c_w), as configured", lambda p: f"{1 / p.cost_ratio:.2f}"
    yield "share of rollouts in a GRPO step (rho)", lambda p: f"{p.rollout_share:.1%}"
    yield "mean explorer share (alpha)", lambda p: f"{p.alpha:.1%}"
    yield "saved of the rollout time", lambda p: f"{cost.saving(1, p.alpha, p.cost_ratio):.1%}"
    yield (
        "saved of the run: rho alpha (1 - c_w/c_s)",
        (lambda p: f"{cost.saving(p.rollout_share, p.alpha, p.cost_ratio):.1%}"),
    )
    yield "saved of the run, from the steps above", lambda p: f"{p.run_saving:.1%}"
    yield "saved with stored rollouts: rho alpha", lambda p: f"{cost.saving(p.rollout_share, p.alpha, 0):.1%}"


def full_ratio(learner: cost.Decoding, explorer: cost.Decoding) -> str:
    rates = learner.full_tokens_per_s, explorer.full_tokens_per_s
    return f"{rates[1] / rates[0]:.2f}" if rates[0] and rates[1] else "does not fit"


def assumptions(cfg: Config, assumed: cost.Assumed) -> Iterator[str]:
    yield "These are predictions from formulas (docs/planner.md), not measurements. Assumed, and how to change it:"
    yield (
        f"  length={assumed.length} tokens a response, prompt={assumed.prompt} a prompt on average: mean context "
        f"{assumed.context:,.0f}"
    )
    yield f"  bandwidth={assumed.bandwidth:g} of the memory bandwidth in decoding, with a batch that stays full"
    yield f"  mfu={assumed.mfu:g} of the bf16 peak in training, recomputation counted as work"
    if cost.kind_of(cfg).reserves_kv_memory:
        yield f"  policy={assumed.policy.value} of the engines' scheduler"
    yield f"  refit_gb_s={assumed.refit_gb_s:g} GB/s into each engine; grading, data and checkpoints are not counted"
    if cfg.algorithm.refill_rounds:
        rounds, factor = cfg.algorithm.refill_rounds, cost.asked_over_trained(cfg, assumed)
        yield (
            f"  equal={assumed.equal:g} of the groups have equal rewards: with algorithm.refill_rounds={rounds} "
            f"rollouts take {factor:.2f} times as long (1 to {1 + rounds} times, for equal=0 to 1)"
        )
    if cfg.algorithm.rescue_first is not None:
        yield f"  algorithm.rescue_first={cfg.algorithm.rescue_first}: explorers are counted as if every group failed"
    yield "  * at full bandwidth, with 90% of the memory for this engine alone"
    used = cost.engines_of(cfg).gpus * cfg.engine.replicas_per_node
    if cost.kind_of(cfg).served and used < cfg.trainer.devices:
        yield (
            f"  engines use {used} of the {cfg.trainer.devices} GPUs of a node: see engine.replicas_per_node and "
            "engine.tensor_parallel_size"
        )


def average(prediction: cost.Prediction, phase: Callable[[cost.StepSeconds], float]) -> float:
    return sum(phase(step) for step in prediction.steps) / len(prediction.steps)


def new_table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def add_row(table: Table, name: str, predictions: list[cost.Prediction], cell: Cell) -> None:
    table.add_row(name, *(cell(prediction) for prediction in predictions))


def gib(count: float) -> str:
    return f"{count / 2**30:,.1f}"


def seconds(value: float) -> str:
    return f"{value:,.1f}" if value >= 0.05 or value == 0 else f"{value:.1g}"


def rate(tokens_per_s: float | None) -> str:
    return "does not fit" if tokens_per_s is None else f"{tokens_per_s:,.0f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
