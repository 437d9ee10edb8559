"""Schedules for tests."""

from __future__ import annotations

from typing import Any

from s2l_nemo.algorithm.schedule import Schedule, ScheduleConfig, make_schedule


def made(
    name: str,
    *,
    steps: int,
    t_mix: int | None = None,
    alpha: float = 1.0,
    shares: tuple[float, ...] = (1.0,),
    **more: Any,
) -> Schedule:
    """A schedule by its keys. `list` has one share unless more are given."""
    return make_schedule(ScheduleConfig(name=name, t_mix=t_mix, alpha=alpha, shares=list(shares), **more), steps)
