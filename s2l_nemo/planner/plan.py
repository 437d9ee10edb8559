"""Says what a run will do and need (`run.dry_run=true`). It reads configurations and the hub's lists only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from s2l_nemo.algorithm.schedule import Split, make_schedule
from s2l_nemo.config.explorers import explorers_of
from s2l_nemo.config.load import resolved_yaml
from s2l_nemo.config.parts import data_parallel_size, mini_batch_prompts, parts_of_step
from s2l_nemo.config.schema import Config
from s2l_nemo.models.precision import Precision
from s2l_nemo.planner.downloads import download_rows
from s2l_nemo.planner.memory import (
    Part,
    Phase,
    explorer_engines,
    figures_of_models,
    layout,
    memory_by_part,
    memory_by_phase,
)


def render_plan(cfg: Config) -> str:
    """The resolved configuration, the schedule, the tokens of a step, parameters and memory of one rank, and downloads.

    `cfg` has passed `check_config`. If a model is not there, the public figures of a model of that name take its
    place, and the text says so. If there are none, the figures are "unknown". Raises UserError for a name that the hub
    does not have.
    """
    parts = [
        ("Configuration", resolved_yaml(cfg).rstrip()),
        ("Schedule", _table(_schedule_rows(cfg))),
        ("Tokens", _table(_token_rows(cfg))),
        ("Memory of one rank (estimate)", _memory_text(cfg)),
        ("Checkpoints on the disk (estimate)", _disk_text(cfg)),
    ]
    downloads = list(download_rows(cfg))
    if downloads:
        parts.append(("From the hub", _table(iter([("", "commit", "size", "to download"), *downloads]))))
    return "\n\n".join(f"{title}\n{'-' * len(title)}\n{body}" for title, body in parts) + "\n"


def splits(cfg: Config) -> list[Split]:
    """The split of every step of the run."""
    steps = cfg.algorithm.steps
    schedule = make_schedule(cfg.algorithm.schedule, steps)
    return [schedule(step, cfg.algorithm.group_size) for step in range(1, steps + 1)]


@dataclass(frozen=True)
class StepCounts:
    """What one step is made of. `micro_batches` are those of one optimizer step on one rank."""

    sequences: int
    trained_sequences: int  # each as often as there are optimizer passes
    updates: int  # of the first step; with two updates a step, others may have fewer or more
    micro_batches: int


def counts_of_step(cfg: Config) -> StepCounts:
    """The counts of one step. `cfg` has passed `check_config`."""
    algorithm, mini_batch = cfg.algorithm, mini_batch_prompts(cfg)
    sequences = algorithm.prompts_per_step * algorithm.group_size
    rank_sequences = mini_batch * algorithm.group_size // data_parallel_size(cfg)
    return StepCounts(
        sequences=sequences,
        trained_sequences=sequences * algorithm.optimizer_passes,
        updates=updates_of_step(cfg, splits(cfg)[0]),
        micro_batches=rank_sequences // cfg.model.micro_batch_size,
    )


def updates_of_step(cfg: Config, split: Split) -> int:
    """Optimizer steps of one step, of all its parts and passes."""
    return sum(part.updates for part in parts_of_step(cfg, split.explorer)) * cfg.algorithm.optimizer_passes


def _schedule_rows(cfg: Config) -> Iterator[tuple[str, ...]]:
    yield "steps", "alpha", "G_w explorer", "G_s learner", "explorer rollouts", "learner rollouts"
    prompts, explored = cfg.algorithm.prompts_per_step, bool(explorers_of(cfg))
    all_splits = splits(cfg)
    for (alpha, explorer, learner), run in groupby(all_splits, key=lambda s: (s.alpha, s.explorer, s.learner)):
        steps = [split.step for split in run]
        span = str(steps[0]) if len(steps) == 1 else f"{steps[0]}-{steps[-1]}"
        mine, its = (learner, explorer) if explored else (learner + explorer, 0)
        yield span, f"{alpha:.3f}", f"{explorer}", f"{learner}", f"{prompts * its:,}", f"{prompts * mine:,}"
    share = sum(split.explorer for split in all_splits) / (len(all_splits) * cfg.algorithm.group_size)
    yield "mean", f"{share:.3f}", "", "", "", ""


def _token_rows(cfg: Config) -> Iterator[tuple[str, ...]]:
    rollout, step = cfg.rollout, counts_of_step(cfg)
    longest = rollout.max_prompt_length + rollout.max_response_length
    yield "", "one step", "whole run"
    for name, count in (
        ("sequences", step.sequences),
        ("generated tokens, at most", step.sequences * rollout.max_response_length),
        ("trained tokens with prompts, at most", step.trained_sequences * longest),
    ):
        yield name, f"{count:,}", f"{count * cfg.algorithm.steps:,}"
    yield "optimizer steps", f"{step.updates:,}", f"{sum(updates_of_step(cfg, split) for split in splits(cfg)):,}"
    yield "micro-batches of an optimizer step on one rank", f"{step.micro_batches:,}", ""


def _memory_text(cfg: Config) -> str:
    learner, explorers = figures_of_models(cfg)
    names = [one.name for one in explorer_engines(cfg)]
    lines = [layout(cfg), f"learner: {learner.source}"]
    lines += [f"{name}: {figures.source}" for name, figures in zip(names, explorers, strict=True)]
    shapes = [figures.shape for figures in explorers if figures.shape is not None]
    if learner.shape is None or len(shapes) < len(explorers):
        return "\n".join([*lines, "memory: unknown"])
    parts = memory_by_part(cfg, learner.shape, shapes)
    without = "" if Part.kv_cache in parts else ", without the KV cache"
    rows = [(part.value, _bytes(count)) for part, count in parts.items()]
    if without:
        rows.append((Part.kv_cache.value, f"{cfg.engine.memory_fraction:g} of what is free, for each engine"))
    totals = memory_by_phase(cfg, parts)
    rows.append((f"on the device while {Phase.training.value}", _bytes(totals[Phase.training])))
    rows.append((f"on the device while {Phase.generating.value}{without}", _bytes(totals[Phase.generating])))
    return "\n".join([*lines, _table(iter(rows))])


def checkpoints_kept(cfg: Config) -> int:
    """How many checkpoints the run leaves, one more than `checkpoint.keep` if the best one is kept besides."""
    keep, every, steps = cfg.checkpoint.keep, cfg.checkpoint.every, cfg.algorithm.steps
    saved = -(-steps // every)  # the last step is always saved
    if keep == 0:
        return saved
    return min(keep + (cfg.checkpoint.best is not None), saved)


def checkpoint_bytes(parameters: int, precision: Precision) -> int:
    """Weights, and the optimizer's fp32 master weights and two moments."""
    return parameters * (precision.element_bytes + 12)


def _disk_text(cfg: Config) -> str:
    learner, _ = figures_of_models(cfg)
    if learner.shape is None:
        return "unknown"
    kept, size = checkpoints_kept(cfg), checkpoint_bytes(learner.shape.parameters, cfg.model.precision)
    return f"{kept} of {_bytes(size)}: {_bytes(kept * size)} in {cfg.run.dir}"


def _bytes(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 2**10:,.1f} KiB"


def _table(rows: Iterator[tuple[str, ...]]) -> str:
    """The rows as text, with the first column to the left and all others to the right."""
    cells = list(rows)
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in cells
    )
