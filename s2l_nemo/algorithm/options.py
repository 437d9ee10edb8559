"""The keys of `algorithm`: the part of the configuration that belongs to the method itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from s2l_nemo.algorithm.schedule import ScheduleConfig
from s2l_nemo.fields import COUNT, NON_NEGATIVE, POSITIVE, POSITIVE_COUNT, above, at_least, between, key
from s2l_nemo.registry import Registry

if TYPE_CHECKING:
    from s2l_nemo.algorithm.losses.aggregation import Aggregation
    from s2l_nemo.algorithm.losses.importance import ImportanceRule


class KLEstimator(str, Enum):
    """See `losses.kl`."""

    k1 = "k1"
    k2 = "k2"
    k3 = "k3"


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


# Each choice is one line here and one class or function in its file.
IMPORTANCE: Registry[type[ImportanceRule]] = Registry(
    "algorithm.importance",
    {
        "learner_old": "s2l_nemo.algorithm.losses.importance:LearnerOld",
        "behavior": "s2l_nemo.algorithm.losses.importance:Behavior",
        "truncated": "s2l_nemo.algorithm.losses.importance:Truncated",
        "masked": "s2l_nemo.algorithm.losses.importance:Masked",
        "shaped": "s2l_nemo.algorithm.losses.importance:Shaped",
    },
)
AGGREGATIONS: Registry[Aggregation] = Registry(
    "algorithm.aggregation",
    {
        "token_mean": "s2l_nemo.algorithm.losses.aggregation:token_mean",
        "sequence_mean": "s2l_nemo.algorithm.losses.aggregation:sequence_mean",
        "constant": "s2l_nemo.algorithm.losses.aggregation:constant",
    },
)


@dataclass
class AlgorithmConfig:
    """S2L-PO as in the paper, with the choices that GRPO's relatives add."""

    steps: int = key(16, "training steps (T)", POSITIVE_COUNT, may_change=True)
    prompts_per_step: int = key(32, "prompts of one step (P)", POSITIVE_COUNT)
    group_size: int = key(16, "rollouts of each prompt, explorer and learner together (G)", at_least(2))
    mini_batch_prompts: int | None = key(None, "prompts of one optimizer step; null: all of them", POSITIVE_COUNT)
    optimizer_passes: int = key(1, "passes over the step's rollouts (U)", POSITIVE_COUNT)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    importance: str = key(
        "learner_old", "which probability ratio carries the gradient, and its correction", choices=IMPORTANCE
    )
    importance_cap: float = key(
        2.0, "`truncated`: largest correction weight; `masked`: upper end of the band", at_least(1)
    )
    importance_floor: float = key(0.5, "`masked`: lower end of the band", between(0, 1))
    shaping_gamma: float = key(0.1, "`shaped`: gamma of x/(x + gamma) on explorer tokens", POSITIVE)
    clip_low: float = key(0.2, "the ratio is clipped below at 1 - clip_low", between(0, 1))
    clip_high: float = key(0.2, "the ratio is clipped above at 1 + clip_high", NON_NEGATIVE)
    dual_clip: float | None = key(None, "lower bound -c*A for negative advantages, c > 1; null: off", above(1))
    kl_coef: float = key(1e-3, "beta of Eq. 2; 0 skips the reference model", NON_NEGATIVE)
    kl_estimator: KLEstimator = key(KLEstimator.k3, "estimate of the KL divergence from the reference model")
    kl_on_explorer: bool = key(True, "whether explorer tokens have the KL penalty too")
    explorer_loss_coef: float = key(1.0, "factor of the policy loss on explorer tokens", NON_NEGATIVE)
    aggregation: str = key("token_mean", "how the losses of tokens become one", choices=AGGREGATIONS)
    rescue_first: int | None = key(
        None,
        "the learner samples this many of each group first; explorers fill up only those that fail (rescue_when)",
        POSITIVE_COUNT,
    )
    rescue_when: RescueWhen = key(
        RescueWhen.all_wrong, "with rescue_first: which groups explorers fill up, as far as the schedule allows"
    )
    refill_rounds: int = key(
        0,
        "dynamic sampling: how often groups of equal rewards are replaced by those of further prompts; 0: never",
        COUNT,
    )
    drop_zero_variance: bool = key(
        False, "leave groups whose advantages are all 0 out of log-probs and updates; they lose their KL term"
    )
    mask_truncated: bool = key(False, "answers cut at max_response_length give no gradient")
    adv_std: AdvantageStd = key(AdvantageStd.sample, "which standard deviation divides advantages; none: no division")
    adv_baseline: Baseline = key(Baseline.mean, "taken off each reward: the group's mean, or the mean of the others")
    adv_norm: AdvantageNorm = key(AdvantageNorm.mixed, "statistics over the whole group, or explorer and learner apart")
    adv_eps: float = key(1e-6, "added to the standard deviation", NON_NEGATIVE)
