"""How many candidates of a group the explorer samples at each step (Algorithm 1; Figures 5-7 of the paper).

A schedule is a pure function (step, G) -> Split. Ceilings are computed on integers or fractions: in floats the linear
one is wrong in thousands of cases (G = 7, T_mix = 8, i = 7 would give 2 instead of 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from s2l_nemo.errors import UserError
from s2l_nemo.registry import Registry, Wanted


@dataclass(frozen=True)
class Split:
    """Who samples the G candidates of each prompt at one step. `explorer` is G_w, `learner` is G_s = G - G_w."""

    step: int
    alpha: float
    explorer: int
    learner: int


Schedule = Callable[[int, int], Split]


@dataclass(frozen=True)
class ScheduleKind:
    """One choice of `algorithm.schedule.name`.

    `share` gives alpha, the explorer's share of a group, from (step counted from 1, T_mix, the key `alpha`). It returns
    an exact number from 0 to 1.
    """

    share: Callable[[int, int, Fraction], Fraction]
    explores: bool = True  # False: the explorer samples nothing, and explorer.path may be null
    uses_t_mix: bool = True


def make_schedule(name: str, *, steps: int, t_mix: int | None, alpha: float) -> Schedule:
    """Returns the function (step counted from 1, group size G) -> Split.

    `name` is a key of `SCHEDULES`. `t_mix` None is half of `steps`, rounded down.

    Raises UserError for an unknown name, `t_mix` outside 0..steps or `alpha` outside 0..1.
    """
    share = SCHEDULES[name].share
    last = steps // 2 if t_mix is None else t_mix
    if not 0 <= last <= steps:
        raise UserError(
            f"algorithm.schedule.t_mix={last} is outside 0..{steps} (algorithm.steps): choose a step in that range"
        )
    if not 0 <= alpha <= 1:
        raise UserError(f"algorithm.schedule.alpha={alpha} is not a share: choose a number from 0 to 1")
    # The decimal that the user wrote, not the nearest binary float: ceil(0.1 * 10) must be 1, ceil(0.7 * 10) 7.
    exact_alpha = Fraction(str(float(alpha)))

    def schedule(step: int, group_size: int) -> Split:
        if step < 1:
            raise ValueError(f"steps are counted from 1, got {step}")
        alpha_i = share(step, last, exact_alpha)
        explorer = math.ceil(alpha_i * group_size)
        return Split(step, float(alpha_i), explorer, group_size - explorer)

    return schedule


def _linear(step: int, t_mix: int, _alpha: Fraction) -> Fraction:
    if step > t_mix:
        return Fraction(0)
    # T_mix = 1 is one step of the explorer alone; the formula of Algorithm 1 would divide by zero.
    return Fraction(t_mix - step, t_mix - 1) if t_mix > 1 else Fraction(1)


def _cosine(step: int, t_mix: int, alpha: Fraction) -> Fraction:
    progress = 1 - _linear(step, t_mix, alpha)
    # By Niven's theorem the only rational values are multiples of 1/4; ten decimals bring those back from float noise.
    return Fraction(f"{(1 + math.cos(math.pi * float(progress))) / 2:.10f}")


def _abrupt(step: int, t_mix: int, alpha: Fraction) -> Fraction:
    return alpha if step <= t_mix else Fraction(0)


def _constant(_step: int, _t_mix: int, alpha: Fraction) -> Fraction:
    return alpha


def _none(_step: int, _t_mix: int, _alpha: Fraction) -> Fraction:
    return Fraction(0)


# To add one from outside, call SCHEDULES.register(name, ScheduleKind(share)).
SCHEDULES: Registry[ScheduleKind] = Registry(
    "algorithm.schedule.name",
    {
        "linear": ScheduleKind(_linear),  # the paper
        "abrupt": ScheduleKind(_abrupt),  # `alpha` until T_mix, then 0
        "constant": ScheduleKind(_constant, uses_t_mix=False),  # `alpha` throughout
        "cosine": ScheduleKind(_cosine),  # the end points of `linear`
        "none": ScheduleKind(_none, explores=False, uses_t_mix=False),  # plain GRPO
    },
    Wanted(lambda found: isinstance(found, ScheduleKind), "a ScheduleKind"),
)
