"""The keys of tools/simulate.py."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from s2l_nemo.config.schema import Config
from s2l_nemo.errors import UserError
from s2l_nemo.fields import COUNT, POSITIVE, POSITIVE_COUNT, PROPER_SHARE, Range, at_least, between, key
from s2l_nemo.planner.cost import AssumedOptions, GpuName, kind_of
from s2l_nemo.planner.memory import explores
from s2l_nemo.planner.simulation.lengths import Distribution
from s2l_nemo.planner.simulation.rates import apart
from s2l_nemo.planner.simulation.rollout import Dispatch

SIZES = Range(lambda value: len(value) > 0 and all(size >= 1 for size in value), "numbers of GPUs, such as [8,64,1024]")


@dataclass
class SimulateOptions(AssumedOptions):
    """What no configuration of a run can say. `conf` to `policy` are those of tools/plan.py."""

    gpu: GpuName = key(GpuName.H100, "kind of GPU")
    gpus: list[int] = key(lambda: [8, 64, 1024], "how many of them, in whole nodes; one column each", SIZES)
    recorded: str | None = key(
        None, "folder of a run whose rollouts give the lengths; null: a named distribution", path=True
    )
    lengths: Distribution = key(Distribution.lognormal, "of the tokens of a response, cut at the limit")
    std: float | None = key(None, "standard deviation of lognormal, tokens; null: half of the mean", POSITIVE)
    alike: float = key(0.5, "share of their variance that the answers to one prompt have in common", between(0, 1))
    explorer: int | None = key(None, "explorer samples of each group; null: the mean of the schedule, rounded", COUNT)
    steps: int = key(3, "steps that are played; the first is left out of the figures", at_least(2))
    seed: int = key(0, "of the lengths", COUNT)
    dispatch: Dispatch = key(
        Dispatch.share, "how requests come to engines: each its share at the start, as the trainer"
    )
    chunk: int = key(8, "requests of one chunk", POSITIVE_COUNT)
    balance: bool = key(True, "replicas of the actor get about as many tokens each, as in the trainer")
    engine_gpus: int | None = key(
        None, "GPUs of a node for each model's engines where they are compared apart; null: a quarter", POSITIVE_COUNT
    )
    engine_memory: float = key(0.85, "engine.memory_fraction there", PROPER_SHARE)
    slow: int = key(0, "how many GPUs are slow", COUNT)
    slowdown: float = key(1.5, "how many times as long work takes on them", at_least(1))
    exchange_gb_s: float = key(1.0, "rate of the exchange of completions, into or out of a rank, GB/s", POSITIVE)
    host_gb_s: float = key(20.0, "rate between a GPU and host memory when engines wake and sleep, GB/s", POSITIVE)
    grades_per_s: float = key(1000.0, "answers that one rank grades in a second", POSITIVE)
    calibrate: list[str] = key(
        list, "folders of a measured run and its repeats, whose rates replace the data sheets", path=True
    )
    show: int = key(8, "GPUs in a timeline; 0: no timelines", COUNT)


def check_played(cfg: Config) -> None:
    """Raises UserError for a run whose steps are other ones than those that are played."""
    algorithm, rollout = cfg.algorithm, cfg.rollout
    for name, used, why in (
        (f"algorithm.rescue_first={algorithm.rescue_first}", algorithm.rescue_first is not None, REWARDS),
        (f"algorithm.refill_rounds={algorithm.refill_rounds}", algorithm.refill_rounds > 0, REWARDS),
        ("rollout.two_updates=true", rollout.two_updates, "a step of two updates is not played; tools/plan.py has it"),
        (f"rollout.replay={rollout.replay}", rollout.replay is not None, "nothing is sampled in such a run"),
    ):
        if used:
            raise UserError(f"{name}: {why}; leave it out")


REWARDS = "rewards decide who samples what, and a simulation has none"
OF_DATA_SHEETS = ("gpu", "bandwidth", "mfu", "refit_gb_s", "policy", "exchange_gb_s", "host_gb_s", "grades_per_s")
OF_NAMED_LENGTHS = ("length", "lengths", "std", "alike")


def check_given(options: SimulateOptions, cfg: Config, given: Collection[str]) -> None:
    """Raises UserError for a key that was given and would do nothing beside the others."""
    recorded = options.recorded is not None or options.calibrate
    for useless, keys, why in (
        (bool(options.calibrate), OF_DATA_SHEETS, "calibrate takes all rates from a measured run"),
        (recorded, OF_NAMED_LENGTHS, "the lengths are those of a run"),
        (options.lengths is not Distribution.lognormal, ("std",), f"lengths={options.lengths.value} has none"),
        (
            not kind_of(cfg).served or apart(cfg) or not explores(cfg),
            ("engine_gpus", "engine_memory"),
            "only engine servers of two models on the trainer's GPUs are compared with such that have their own",
        ),
        (options.slow == 0, ("slowdown",), "no GPU is slow: give slow= as well"),
    ):
        for name in keys:
            if useless and name in given:
                raise UserError(f"{name}={getattr(options, name)} does nothing, because {why}: leave it out")
