"""One run at several sizes, as it is configured and as it might be."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from s2l_nemo.algorithm.schedule import SCHEDULES
from s2l_nemo.config.explorers import explorers_of
from s2l_nemo.config.schema import Config, ExplorerSource
from s2l_nemo.errors import UserError
from s2l_nemo.models.shape import ModelShape
from s2l_nemo.planner.cost import Assumed, Gpu, kind_of, mean_alpha
from s2l_nemo.planner.memory import explores, gpus_of_engine
from s2l_nemo.planner.simulation.layout import layout_of, with_engines_apart, with_own_gpus
from s2l_nemo.planner.simulation.lengths import Lengths
from s2l_nemo.planner.simulation.options import SimulateOptions
from s2l_nemo.planner.simulation.rates import Links, Rates, Room, apart, data_sheet_rates, rooms
from s2l_nemo.planner.simulation.rollout import Dispatch
from s2l_nemo.planner.simulation.step import Played, Run, Scenario, draw_steps, play_steps

IN_WORDS = {
    Dispatch.share: "each engine its share",
    Dispatch.chunks: "requests in chunks",
    Dispatch.queue: "requests in one queue",
}


@dataclass(frozen=True)
class Arrangement:
    """Who has which GPUs, and who does what when. `spare`: see `layout_of`."""

    cfg: Config
    scenario: Scenario
    spare: int = 0


Variant = Callable[[Arrangement], Arrangement | None]  # None: this configuration cannot be so


@dataclass(frozen=True)
class Question:
    """What is asked of the simulation. With `rates`, those of a measured run, `gpu` says nothing about time."""

    options: SimulateOptions
    learner: ModelShape
    explorer: ModelShape | None
    gpu: Gpu
    assumed: Assumed
    lengths: Lengths
    explorer_samples: int
    rates: Rates | None

    def play(self, its: Arrangement) -> Played:
        """Plays `options.steps` steps of an arrangement, all with the same lengths."""
        run = Run(
            its.cfg,
            self.learner,
            self._rates(its),
            self._rooms(its),
            self.assumed,
            self.lengths,
            self.explorer_samples,
            its.spare,
        )
        slow = random.Random(self.options.seed).sample(range(run.layout.devices), self.options.slow)
        scenario = replace(its.scenario, slow=frozenset(slow), slowdown=self.options.slowdown)
        return play_steps(run, scenario, draw_steps(run, self.options.steps, self.options.seed))

    def _rates(self, its: Arrangement) -> Rates:
        if self.rates is not None:
            return self.rates
        options = self.options
        links = Links(options.exchange_gb_s, options.host_gb_s, options.grades_per_s)
        rates = data_sheet_rates(its.cfg, self.learner, self.explorer, self.gpu, self.assumed, links)
        if not its.spare:
            return rates
        without = data_sheet_rates(its.cfg, self.learner, None, self.gpu, self.assumed, links)
        return replace(without, explorer=rates.explorer)

    def _rooms(self, its: Arrangement) -> tuple[Room, Room | None]:
        if not its.spare:
            return rooms(its.cfg, self.learner, self.explorer, self.gpu, self.assumed)
        of_learner, _ = rooms(its.cfg, self.learner, None, self.gpu, self.assumed)
        alone = with_own_gpus(its.cfg, self.options.engine_memory)
        _, of_explorer = rooms(alone, self.learner, self.explorer, self.gpu, self.assumed)
        return of_learner, of_explorer


def play_all(question: Question, cfg: Config) -> dict[str, Played | None]:
    """The run as it is configured, first, and as it might be, by name; None where it cannot be so."""
    configured = Arrangement(cfg, scenario_of(question.options, cfg))
    found: dict[str, Played | None] = {}
    for name, variant in variants(question.options, cfg):
        changed = variant(configured)
        found[name] = question.play(changed) if changed else None
    return found


def explorer_samples(options: SimulateOptions, cfg: Config) -> int:
    """Explorer samples of each group. Raises UserError if there are more than G, or there is no explorer."""
    size = cfg.algorithm.group_size
    stored = [one.key for one in explorers_of(cfg) if one.options.source is not ExplorerSource.live]
    if stored and SCHEDULES[cfg.algorithm.schedule.name].explores:
        raise UserError(f"{stored[0]}.source=store: stored rollouts take no time and are not played; see tools/plan.py")
    if options.explorer is None:
        return round(mean_alpha(cfg) * size)
    if options.explorer > size:
        raise UserError(f"explorer={options.explorer} is more than algorithm.group_size={size}: give at most {size}")
    if options.explorer and not explores(cfg):
        raise UserError(
            f"explorer={options.explorer}, but the run has no explorer (algorithm.schedule.name="
            f"{cfg.algorithm.schedule.name}): give explorer=0, or another schedule"
        )
    return options.explorer


def scenario_of(options: SimulateOptions, cfg: Config) -> Scenario:
    """The scenario of the options. Raises UserError if it cannot be on these GPUs."""
    devices = layout_of(cfg).devices
    if options.slow > devices:
        raise UserError(f"slow={options.slow} is more than the {devices} GPUs: lower it")
    return Scenario(options.dispatch, options.chunk, options.balance, cfg.rollout.explorer_ahead and explores(cfg))


def variants(options: SimulateOptions, cfg: Config) -> Iterator[tuple[str, Variant]]:
    """What might be otherwise, by name, one thing at a time. What does not apply to `cfg` is left out."""
    yield "as configured", lambda its: its
    words = "replicas not balanced" if options.balance else "replicas balanced"
    yield words, lambda its: changed(its, balanced=not options.balance)
    for dispatch in Dispatch:
        if dispatch is not options.dispatch:
            words = IN_WORDS[dispatch] + (f" of {options.chunk}" if dispatch is Dispatch.chunks else "")
            yield words, partial(changed, dispatch=dispatch)
    if apart(cfg) and explores(cfg):
        words = "explorer not ahead" if cfg.rollout.explorer_ahead else "explorer ahead"
        yield words, lambda its: changed(its, ahead=not its.scenario.ahead)
    elif kind_of(cfg).served and explores(cfg):
        gpus = engine_gpus(options, cfg)
        for ahead in (False, True):
            words = f"{gpus} + {gpus} GPUs of a node for engines" + (", explorer ahead" if ahead else "")
            yield words, partial(engines_apart, gpus, options.engine_memory, ahead)
        for ahead in (False, True):
            words = f"{gpus} more GPUs a node for the explorer" + (", ahead" if ahead else "")
            yield words, partial(with_spare, gpus, ahead)


def engine_gpus(options: SimulateOptions, cfg: Config) -> int:
    """GPUs of a node for each model's engines, where they have their own. Raises UserError if engines do not fit."""
    size = gpus_of_engine(cfg)
    gpus = options.engine_gpus or max(size, cfg.trainer.devices // 4 // size * size)
    if gpus % size:
        raise UserError(
            f"engine_gpus={gpus} is no multiple of engine.tensor_parallel_size={size}: give whole engines, such as "
            f"{gpus // size * size + size}"
        )
    return gpus


def changed(its: Arrangement, **changes: Any) -> Arrangement:
    """With another scenario."""
    return replace(its, scenario=replace(its.scenario, **changes))


def engines_apart(gpus: int, memory_fraction: float, ahead: bool, its: Arrangement) -> Arrangement | None:
    """With engines on GPUs of their own."""
    moved = with_engines_apart(its.cfg, gpus, memory_fraction)
    return changed(replace(its, cfg=moved), ahead=ahead) if moved else None


def with_spare(gpus: int, ahead: bool, its: Arrangement) -> Arrangement:
    """With more GPUs, which are the explorer's."""
    return changed(replace(its, spare=gpus), ahead=ahead)
