"""How many candidates of a group the explorer samples at each step (Algorithm 1; Figures 5-7 of the paper).

A schedule is a pure function (step, G, outcomes of the steps before) -> Split. Ceilings are computed on integers or
fractions: in floats the linear one is wrong in thousands of cases (G = 7, T_mix = 8, i = 7 would give 2 instead of 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Protocol

from typing_extensions import assert_never

from s2l_nemo.errors import UserError
from s2l_nemo.fields import BELOW_ONE, NON_NEGATIVE, between, key
from s2l_nemo.registry import Registry, Wanted


@dataclass(frozen=True)
class Split:
    """Who samples the G candidates of each prompt at one step. `explorer` is G_w, `learner` is G_s = G - G_w."""

    step: int
    alpha: float
    explorer: int
    learner: int


@dataclass(frozen=True)
class Outcome:
    """What came of a step: mean rewards by sampler (None: no samples), and the share of groups of equal rewards."""

    learner: float | None
    explorer: float | None
    zero_variance: float


class Schedule(Protocol):
    def __call__(self, step: int, group_size: int, outcomes: Sequence[Outcome] = ()) -> Split:
        """The split of a step, counted from 1. `outcomes` are those of the steps before it, in their order."""
        ...


class Signal(str, Enum):
    """What `adaptive` keeps at its target."""

    zero_variance = "zero_variance"  # share of groups of equal rewards; too many call for the explorer
    reward_gap = "reward_gap"  # the learner's mean reward less the explorer's; too much sends the explorer away


@dataclass(frozen=True)
class ScheduleOptions:
    """The keys of `algorithm.schedule`.

    Shares are the decimals that the user wrote, not the nearest binary floats: ceil(0.1 * 10) must be 1.
    """

    t_mix: int
    alpha: Fraction
    shares: tuple[Fraction, ...]
    signal: Signal
    target: float
    gain: float
    smoothing: float
    low: float
    high: float


@dataclass(frozen=True)
class ScheduleKind:
    """One choice of `algorithm.schedule.name`.

    `share` gives alpha, the explorer's share of a group, from (step counted from 1, options, outcomes of the steps
    before). It returns an exact number from 0 to 1.
    """

    share: Callable[[int, ScheduleOptions, Sequence[Outcome]], Fraction]
    explores: bool = True  # False: the explorer samples nothing, and explorer.path may be null
    uses_t_mix: bool = True


def make_schedule(config: ScheduleConfig, steps: int) -> Schedule:
    """The schedule that the keys of `algorithm.schedule` ask for, in a run of that many steps.

    `t_mix` None is half of `steps`, rounded down. It may lie beyond `steps` in a run that was shortened, but not in one
    that begins: see `check_t_mix`.

    Raises UserError for an unknown name, and for shares outside 0..1 or missing.
    """
    share = SCHEDULES[config.name].share
    options = _options(config, steps)

    def schedule(step: int, group_size: int, outcomes: Sequence[Outcome] = ()) -> Split:
        if step < 1:
            raise ValueError(f"steps are counted from 1, got {step}")
        alpha = share(step, options, outcomes)
        explorer = math.ceil(alpha * group_size)
        return Split(step, float(alpha), explorer, group_size - explorer)

    return schedule


def check_t_mix(config: ScheduleConfig, steps: int) -> None:
    """Raises UserError if `t_mix` is outside 0..steps."""
    if config.t_mix is not None and not 0 <= config.t_mix <= steps:
        raise UserError(
            f"algorithm.schedule.t_mix={config.t_mix} is outside 0..{steps} (algorithm.steps): choose a step in that "
            "range, or null, which is also the T_mix of a run that continues"
        )


def _options(config: ScheduleConfig, steps: int) -> ScheduleOptions:
    last = steps // 2 if config.t_mix is None else config.t_mix
    for share in (config.alpha, *config.shares):
        if not 0 <= share <= 1:
            name = "alpha" if share is config.alpha else "shares"
            raise UserError(f"algorithm.schedule.{name}={share} is not a share: choose a number from 0 to 1")
    if config.name == "list" and not config.shares:
        raise UserError("algorithm.schedule.name=list without algorithm.schedule.shares: give one share for each step")
    if config.name == "adaptive" and not config.low <= config.alpha <= config.high:
        raise UserError(
            f"algorithm.schedule.alpha={config.alpha}, where `adaptive` begins, is outside its bounds "
            f"algorithm.schedule.low={config.low} and high={config.high}: choose a share between them"
        )
    return ScheduleOptions(
        t_mix=last,
        alpha=_decimal(config.alpha),
        shares=tuple(map(_decimal, config.shares)),
        signal=config.signal,
        target=config.target,
        gain=config.gain,
        smoothing=config.smoothing,
        low=config.low,
        high=config.high,
    )


def _decimal(share: float) -> Fraction:
    return Fraction(str(float(share)))


def _linear(step: int, options: ScheduleOptions, _outcomes: Sequence[Outcome]) -> Fraction:
    if step > options.t_mix:
        return Fraction(0)
    # T_mix = 1 is one step of the explorer alone; the formula of Algorithm 1 would divide by zero.
    return Fraction(options.t_mix - step, options.t_mix - 1) if options.t_mix > 1 else Fraction(1)


def _cosine(step: int, options: ScheduleOptions, outcomes: Sequence[Outcome]) -> Fraction:
    progress = 1 - _linear(step, options, outcomes)
    # By Niven's theorem the only rational values are multiples of 1/4; ten decimals bring those back from float noise.
    return Fraction(f"{(1 + math.cos(math.pi * float(progress))) / 2:.10f}")


def _abrupt(step: int, options: ScheduleOptions, _outcomes: Sequence[Outcome]) -> Fraction:
    return options.alpha if step <= options.t_mix else Fraction(0)


def _constant(_step: int, options: ScheduleOptions, _outcomes: Sequence[Outcome]) -> Fraction:
    return options.alpha


def _list(step: int, options: ScheduleOptions, _outcomes: Sequence[Outcome]) -> Fraction:
    return options.shares[min(step, len(options.shares)) - 1]


def _adaptive(step: int, options: ScheduleOptions, outcomes: Sequence[Outcome]) -> Fraction:
    """alpha_1 is `alpha`; then alpha_{i+1} = alpha_i + gain * (s_i - target), within the bounds.

    s_i = smoothing * s_{i-1} + (1 - smoothing) * m_i, where m_i is the signal of step i and s_1 = m_1. For the gap of
    rewards the sign is the other one. A step without a signal, as one that one policy sampled alone, changes nothing.
    """
    alpha, smooth = float(options.alpha), None
    for outcome in outcomes[: step - 1]:
        match options.signal:
            case Signal.zero_variance:
                measured, sign = outcome.zero_variance, 1.0
            case Signal.reward_gap:
                if outcome.learner is None or outcome.explorer is None:
                    continue
                measured, sign = outcome.learner - outcome.explorer, -1.0
            case _:
                assert_never(options.signal)
        smooth = measured if smooth is None else options.smoothing * smooth + (1 - options.smoothing) * measured
        alpha = min(options.high, max(options.low, alpha + sign * options.gain * (smooth - options.target)))
    return Fraction(f"{alpha:.10f}")  # ten decimals, so that 0.1 + 0.2 is 0.3


def _none(_step: int, _options: ScheduleOptions, _outcomes: Sequence[Outcome]) -> Fraction:
    return Fraction(0)


# To add one from outside, call SCHEDULES.register(name, ScheduleKind(share)).
SCHEDULES: Registry[ScheduleKind] = Registry(
    "algorithm.schedule.name",
    {
        "linear": ScheduleKind(_linear),  # the paper
        "abrupt": ScheduleKind(_abrupt),  # `alpha` until T_mix, then 0
        "constant": ScheduleKind(_constant, uses_t_mix=False),  # `alpha` throughout
        "cosine": ScheduleKind(_cosine),  # the end points of `linear`
        "list": ScheduleKind(_list, uses_t_mix=False),  # `shares`, one a step; the last one stays
        "adaptive": ScheduleKind(_adaptive, uses_t_mix=False),  # keeps `signal` at `target`
        "none": ScheduleKind(_none, explores=False, uses_t_mix=False),  # plain GRPO
    },
    Wanted(lambda found: isinstance(found, ScheduleKind), "a ScheduleKind"),
)


@dataclass
class ScheduleConfig:
    """How many candidates of each group the explorer samples, step by step."""

    name: str = key("linear", "how the explorer's share of a group falls over the steps", choices=SCHEDULES)
    t_mix: int | None = key(None, "steps with explorer rollouts; null: half of algorithm.steps")
    alpha: float = key(1.0, "explorer share of `constant`, of `abrupt` before the switch, first one of `adaptive`")
    shares: list[float] = key(list, "`list`: the explorer's share of each step; the last one stays")
    signal: Signal = key(Signal.zero_variance, "`adaptive`: what it keeps at the target")
    target: float = key(0.3, "`adaptive`: where the signal should be", between(-1, 1))
    gain: float = key(0.2, "`adaptive`: change of the share in a step for each unit off the target", NON_NEGATIVE)
    smoothing: float = key(0.5, "`adaptive`: weight of the signals before in the moving average", BELOW_ONE)
    low: float = key(0.0, "`adaptive`: least share", between(0, 1))
    high: float = key(1.0, "`adaptive`: largest share", between(0, 1))
