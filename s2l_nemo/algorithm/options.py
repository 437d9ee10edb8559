"""The keys of `algorithm`: the part of the configuration that belongs to the method itself."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

from s2l_nemo.algorithm.advantage_choices import AdvantageNorm as AdvantageNorm
from s2l_nemo.algorithm.advantage_choices import AdvantageStd as AdvantageStd
from s2l_nemo.algorithm.advantage_choices import Baseline as Baseline
from s2l_nemo.algorithm.advantage_choices import RescueWhen as RescueWhen
from s2l_nemo.algorithm.schedule import ScheduleConfig
from s2l_nemo.errors import UserError
from s2l_nemo.fields import COUNT, NON_NEGATIVE, POSITIVE, POSITIVE_COUNT, above, at_least, between, key
from s2l_nemo.registry import Registry, Wanted

if TYPE_CHECKING:
    from s2l_nemo.algorithm.advantages import Advantage
    from s2l_nemo.algorithm.losses.aggregation import Aggregation
    from s2l_nemo.algorithm.losses.importance.rule import ImportanceRule


class KLEstimator(str, Enum):
    """See `losses.kl`."""

    k1 = "k1"
    k2 = "k2"
    k3 = "k3"


class Rejected(str, Enum):
    """Whether the loss is divided by tokens that the importance rule does not accept; see `losses.policy`."""

    keep = "keep"
    drop = "drop"


Rule = TypeVar("Rule")
RULE = Wanted(lambda found: isinstance(found, type) and is_dataclass(found), "a dataclass")

# Each choice is one line here and one class or function, each rule in a file of its own.
IMPORTANCE: Registry[type[ImportanceRule]] = Registry(
    "algorithm.importance",
    {
        "learner_old": "s2l_nemo.algorithm.losses.importance.learner_old:LearnerOld",
        "behavior": "s2l_nemo.algorithm.losses.importance.behavior:Behavior",
        "truncated": "s2l_nemo.algorithm.losses.importance.truncated:Truncated",
        "masked": "s2l_nemo.algorithm.losses.importance.masked:Masked",
        "shaped": "s2l_nemo.algorithm.losses.importance.shaped:Shaped",
        "luffy": "s2l_nemo.algorithm.losses.importance.luffy:Luffy",
        "truncated_sequence": "s2l_nemo.algorithm.losses.importance.truncated_sequence:TruncatedSequence",
        "masked_geometric": "s2l_nemo.algorithm.losses.importance.masked_geometric:MaskedGeometric",
        "icepop": "s2l_nemo.algorithm.losses.importance.icepop:IcePop",
        "gspo": "s2l_nemo.algorithm.losses.importance.gspo:Gspo",
        "cispo": "s2l_nemo.algorithm.losses.importance.cispo:Cispo",
        "topr": "s2l_nemo.algorithm.losses.importance.topr:Topr",
        "gepo": "s2l_nemo.algorithm.losses.importance.gepo:Gepo",
        "jackpot": "s2l_nemo.algorithm.losses.importance.jackpot:Jackpot",
    },
    RULE,
)
AGGREGATIONS: Registry[Aggregation] = Registry(
    "algorithm.aggregation",
    {
        "token_mean": "s2l_nemo.algorithm.losses.aggregation:token_mean",
        "sequence_mean": "s2l_nemo.algorithm.losses.aggregation:sequence_mean",
        "constant": "s2l_nemo.algorithm.losses.aggregation:constant",
    },
    Wanted(callable, "a function"),
)
ADVANTAGES: Registry[type[Advantage]] = Registry(
    "algorithm.advantage", {"group": "s2l_nemo.algorithm.advantages:GroupAdvantage"}, RULE
)


@dataclass
class AlgorithmConfig:
    """S2L-PO as in the paper, with the choices that GRPO's relatives add."""

    steps: int = key(16, "training steps (T)", POSITIVE_COUNT, may_change=True)
    prompts_per_step: int = key(32, "prompts of one step (P)", POSITIVE_COUNT)
    group_size: int = key(16, "rollouts of each prompt, explorer and learner together (G)", at_least(2))
    mini_batch_prompts: int | None = key(None, "prompts of one optimizer step; null: all of them", POSITIVE_COUNT)
    explorer_mini_batch: int | None = key(
        None,
        "with rollout.two_updates: sequences of an optimizer step on explorer rollouts; null: mini_batch_prompts",
        POSITIVE_COUNT,
    )
    optimizer_passes: int = key(1, "passes over the step's rollouts (U)", POSITIVE_COUNT)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    importance: str = key(
        "learner_old", "which probability ratio carries the gradient, and its correction", choices=IMPORTANCE
    )
    importance_cap: float = key(
        2.0,
        "largest weight of `truncated`, `truncated_sequence`, `jackpot`; upper end of `masked`, `masked_geometric`",
        at_least(1),
    )
    importance_floor: float = key(0.5, "lower end of the band of `masked` and `masked_geometric`", between(0, 1))
    icepop_alpha: float = key(0.5, "`icepop`: lower end of the band", between(0, 1))
    icepop_beta: float = key(5.0, "`icepop`: upper end of the band", at_least(1))
    jackpot_lambda: float = key(1.0, "`jackpot`: a token is accepted with min(1, pi_old/(lambda pi_sampler))", POSITIVE)
    ratio_to_sampler: bool = key(
        False, "`gspo`, `cispo`: the ratio is to the log-probs of who sampled, not to the learner's old ones"
    )
    shaping_gamma: float = key(0.1, "`shaped`, `luffy`: gamma of x/(x + gamma) on explorer tokens", POSITIVE)
    rejected: Rejected = key(
        Rejected.keep,
        "tokens that a rule masks: keep them in the division of the loss, or drop them and their KL term",
    )
    clip_low: float | None = key(0.2, "the ratio is clipped below at 1 - clip_low; null: not below", between(0, 1))
    clip_high: float | None = key(0.2, "the ratio is clipped above at 1 + clip_high; null: not above", NON_NEGATIVE)
    dual_clip: float | None = key(None, "lower bound -c*A for negative advantages, c > 1; null: off", above(1))
    kl_coef: float = key(1e-3, "beta of Eq. 2; 0 skips the reference model", NON_NEGATIVE)
    kl_estimator: KLEstimator = key(KLEstimator.k3, "estimate of the KL divergence from the reference model")
    kl_clamp: float | None = key(None, "the KL of a token is kept from -x to x, verl has 10; null: off", POSITIVE)
    kl_on_explorer: bool = key(True, "whether explorer tokens have the KL penalty too")
    entropy_coef: float = key(0.0, "factor of the entropy, in nats, that is taken off the loss; 0: off", NON_NEGATIVE)
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
    mask_failed: bool = key(
        False, "a group in which the check of an answer failed gives no gradient; false: that answer is worth 0"
    )
    advantage: str = key("group", "how the rewards of a group become advantages", choices=ADVANTAGES)
    overlong_buffer: int | None = key(
        None, "last tokens before rollout.max_response_length, over which a reward falls; null: off", POSITIVE_COUNT
    )
    overlong_penalty: float = key(1.0, "what a response of rollout.max_response_length tokens loses", NON_NEGATIVE)
    adv_std: AdvantageStd = key(AdvantageStd.sample, "which standard deviation divides advantages; none: no division")
    adv_baseline: Baseline = key(Baseline.mean, "taken off each reward: the group's mean, or the mean of the others")
    adv_norm: AdvantageNorm = key(AdvantageNorm.mixed, "statistics over the whole group, or explorer and learner apart")
    adv_eps: float = key(1e-6, "added to the standard deviation", NON_NEGATIVE)


def made(rule: type[Rule], options: AlgorithmConfig) -> Rule:
    """The rule, a dataclass, filled with the keys of `algorithm` that its fields name.

    A field that is no such key keeps the rule's own default. Raises UserError if it has none.
    """
    known = {one.name for one in fields(AlgorithmConfig)}
    values = {}
    for one in fields(rule):  # type: ignore[arg-type]  # a dataclass by contract
        if one.name in known:
            values[one.name] = getattr(options, one.name)
        elif one.default is MISSING and one.default_factory is MISSING:
            raise UserError(f"{rule.__name__}.{one.name} is no key of algorithm: give this field a default")
    return rule(**values)
