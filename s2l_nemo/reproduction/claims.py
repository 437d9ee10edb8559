"""The claims of the paper, each with the comparison that decides it. They were written before the runs.

A claim says where `first` stands to `second`: two experiments at two stages, on the same problems. `bound` is the
smallest difference of interest, of pass@1 or as a share: what is smaller counts as no difference. The rule is
`s2l_nemo.reproduction.verdicts`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from typing_extensions import assert_never

from s2l_nemo.config.reproduction import Scale
from s2l_nemo.reproduction.outcomes import Metric, Stage

POINT = 0.01  # of pass@1: the smallest gain of Table 1 that is not a rounding error is 1.2 points
SAVED = 0.05  # of the FLOP; the project page says 25 %, the schedule of Appendix C gives 20.7 % for 1.7B and 8B


class Expected(str, Enum):
    """Where the paper says that the difference first - second lies."""

    more = "more"  # above the bound
    no_more = "no_more"  # below the bound
    no_less = "no_less"  # above minus the bound
    same = "same"  # within the bound on both sides

    def region(self, bound: float) -> tuple[float, float]:
        """The differences that agree with the claim, as the ends of an open interval."""
        infinity = float("inf")
        match self:
            case Expected.more:
                return bound, infinity
            case Expected.no_more:
                return -infinity, bound
            case Expected.no_less:
                return -bound, infinity
            case Expected.same:
                return -bound, bound
            case _:
                assert_never(self)


class Verdict(str, Enum):
    """What the rule, written before the runs, says of a claim."""

    reproduced = "reproduced"
    not_reproduced = "not_reproduced"
    undecided = "undecided"


@dataclass(frozen=True)
class Side:
    """An experiment at a stage of its runs."""

    experiment: str
    stage: Stage = Stage.end


@dataclass(frozen=True)
class Claim:
    """One claim. `source` is its place in the paper, `text` says it in one sentence."""

    id: str
    text: str
    source: str
    first: Side
    second: Side
    expected: Expected = Expected.more
    metric: Metric = Metric.pass_at_1
    bound: float = POINT
    scales: tuple[Scale, ...] = (Scale.toy, Scale.paper)


S2L, GRPO = Side("s2l"), Side("grpo")
_PAPER_ONLY = (Scale.paper,)

CLAIMS = (
    Claim(
        "larger_at_1",
        "Before training, the larger model has the higher pass@1.",
        "Section 1, Figure 2",
        Side("learner", Stage.start),
        Side("explorer", Stage.start),
        metric=Metric.models_at_1,
    ),
    Claim(
        "smaller_at_64",
        "Before training, with 64 samples the smaller model matches or exceeds the larger one.",
        "Section 1, Figure 2",
        Side("explorer", Stage.start),
        Side("learner", Stage.start),
        Expected.no_less,
        Metric.models_at_k,
    ),
    Claim("s2l_over_grpo", "S2L-PO ends with a higher pass@1 than GRPO.", "Section 4.2, Table 1, Figure 4", S2L, GRPO),
    Claim(
        "s2l_faster",
        "S2L-PO converges faster: its mean pass@1 over the course of training is higher than GRPO's.",
        "Section 4.2, Figures 3c and 4",
        Side("s2l", Stage.course),
        Side("grpo", Stage.course),
    ),
    Claim(
        "s2l_over_step_matched",
        "With the released code's figures, S2L-PO ends with a higher pass@1 than GRPO with as many optimizer steps.",
        "not in the paper: the released code compares runs with unequal numbers of them",
        Side("released_8b"),
        Side("released_grpo_step_matched"),
    ),
    Claim(
        "temperature_no_substitute",
        "A higher temperature is no substitute: S2L-PO ends with a higher pass@1 than GRPO at temperature 1.5.",
        "Section 4.2, Figure 3c",
        S2L,
        Side("high_temperature"),
    ),
    Claim(
        "temperature_limited",
        "More randomness of tokens yields limited gains: GRPO at temperature 1.5 ends no higher than GRPO.",
        "Figure 3c",
        Side("high_temperature"),
        GRPO,
        Expected.no_more,
    ),
    Claim(
        "small_only_early",
        "Rollouts of the small model alone are better at first: pass@1 after a quarter of the steps is above GRPO's.",
        "Section 4.4, Figure 5",
        Side("small_only", Stage.quarter),
        Side("grpo", Stage.quarter),
    ),
    Claim(
        "small_only_plateau",
        "Rollouts of the small model alone do not sustain it: pass@1 does not rise in the second half of training.",
        "Section 4.4, Figure 5",
        Side("small_only"),
        Side("small_only", Stage.half),
        Expected.no_more,
    ),
    Claim(
        "small_only_below",
        "Rollouts of the small model alone fall short: S2L-PO ends with a higher pass@1.",
        "Section 4.4, Figure 5",
        S2L,
        Side("small_only"),
    ),
    Claim(
        "annealing_over_switch",
        "An abrupt switch is worse than annealing: S2L-PO ends with a higher pass@1.",
        "Section 4.4, Figure 6",
        S2L,
        Side("abrupt_switch"),
    ),
    Claim(
        "annealing_over_switch_course",
        "Annealing is consistently better than an abrupt switch: its mean pass@1 over the course is higher.",
        "Section 4.4, Figure 6",
        Side("s2l", Stage.course),
        Side("abrupt_switch", Stage.course),
    ),
    Claim(
        "t_mix",
        "A shorter transition is worse: T_mix 8 of 16 steps ends with a higher pass@1 than T_mix 5 of 16.",
        "Section 4.4, Figure 7",
        S2L,
        Side("t_mix_5"),
    ),
    Claim(
        "diversity_is_the_cause",
        "Without the diversity of its rollouts the explorer is no gain: pass@1 ends where GRPO's does.",
        "Section 4.3, Table 4",
        Side("without_diversity_constant_g"),
        GRPO,
        Expected.same,
    ),
    Claim(
        "diversity_is_the_gain",
        "The diversity of the explorer's rollouts is the gain: S2L-PO ends higher than without it.",
        "Section 4.3, Table 4",
        S2L,
        Side("without_diversity_constant_g"),
    ),
    Claim(
        "diversity_is_the_cause_shrinking",
        "The same with groups that shrink, as rollouts are left out: pass@1 ends where GRPO's does.",
        "Section 4.3, Table 4, which does not say how rollouts were filtered",
        Side("without_diversity"),
        GRPO,
        Expected.same,
    ),
    Claim(
        "released_s2l_over_grpo",
        "With the released code's figures, S2L-PO ends with a higher pass@1 than GRPO with fewer updates.",
        "Section 4.2, Figure 4, as its scripts would have run",
        Side("released_8b"),
        Side("released_grpo"),
    ),
    Claim(
        "rollout_flops",
        f"S2L-PO saves rollout FLOP: it spends at least {SAVED:.0%} less than GRPO.",
        'Section 4.2 ("significantly reduce the total training FLOPs")',
        S2L,
        GRPO,
        metric=Metric.rollout_flops,
        bound=SAVED,
    ),
    Claim(
        "table_1_8b",
        "On four benchmarks, 8B with an explorer of 1.7B has a higher pass@1 than with GRPO.",
        "Table 1",
        S2L,
        GRPO,
        metric=Metric.table_1,
        scales=_PAPER_ONLY,
    ),
    Claim(
        "table_1_14b",
        "On four benchmarks, 14B with an explorer of 4B has a higher pass@1 than with GRPO.",
        "Table 1",
        Side("s2l_4b_to_14b"),
        Side("grpo_14b"),
        metric=Metric.table_1,
        scales=_PAPER_ONLY,
    ),
    Claim(
        "table_1_internlm",
        "On four benchmarks, InternLM2.5 7B with an explorer of 1.8B has a higher pass@1 than with GRPO.",
        "Table 1",
        Side("s2l_internlm"),
        Side("grpo_internlm"),
        metric=Metric.table_1,
        scales=_PAPER_ONLY,
    ),
    Claim(
        "out_of_domain_14b",
        "Out of domain, on CommonsenseQA, 14B with an explorer of 4B is better than with GRPO.",
        "Section 4.2, Table 2",
        Side("s2l_4b_to_14b"),
        Side("grpo_14b"),
        metric=Metric.table_2,
        scales=_PAPER_ONLY,
    ),
    Claim(
        "out_of_domain_1.7b",
        "Out of domain, on CommonsenseQA, 8B with an explorer of 1.7B is no worse than with GRPO.",
        "Section 4.2, Table 2",
        S2L,
        GRPO,
        Expected.no_less,
        Metric.table_2,
        scales=_PAPER_ONLY,
    ),
    Claim(
        "out_of_domain_4b",
        "Out of domain, on CommonsenseQA, 8B with an explorer of 4B is better than with GRPO.",
        "Section 4.2, Table 2",
        Side("s2l_4b_to_8b"),
        GRPO,
        metric=Metric.table_2,
        scales=_PAPER_ONLY,
    ),
)
