"""The closed sets among the keys of advantages and rescue. Imports nothing, so that `options` may name `advantages`."""

from __future__ import annotations

from enum import Enum


class AdvantageStd(str, Enum):
    """What the centred reward is divided by; see `advantages`."""

    sample = "sample"
    population = "population"
    none = "none"


class Baseline(str, Enum):
    """What is taken off the reward; see `advantages`."""

    mean = "mean"
    leave_one_out = "leave_one_out"


class AdvantageNorm(str, Enum):
    """Over which candidates the statistics are taken; see `advantages`."""

    mixed = "mixed"
    split = "split"  # type: ignore[assignment]  # hides str.split, which no one calls on it


class RescueWhen(str, Enum):
    """Which groups get explorer samples with `rescue_first`."""

    all_wrong = "all_wrong"  # no reward of the learner's first samples is above 0
    all_equal = "all_equal"  # these rewards are equal: all wrong, or all right
