"""Advantages of a group of candidates for one prompt (GRPO; the paper standardises over the whole mixed group)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from typing_extensions import assert_never

from s2l_nemo.algorithm.advantage_choices import AdvantageNorm, AdvantageStd, Baseline, RescueWhen
from s2l_nemo.types import Source


class Advantage(Protocol):
    """A choice of `algorithm.advantage`: made once a run, called once a step, on every rank with the same groups.

    It is a dataclass. Its fields are the keys of `algorithm` that it reads, by their names.
    """

    def __init__(self, **options: Any) -> None: ...

    def __call__(self, rewards_PG: torch.Tensor, source_PG: torch.Tensor, kept_PG: torch.Tensor) -> torch.Tensor:
        """advantages_PG (float32), from rewards (float64), values of Source (int64) and who is trained on (bool)."""
        ...


@dataclass(frozen=True)
class GroupAdvantage:
    """`group`: see `group_advantages`."""

    adv_std: AdvantageStd
    adv_baseline: Baseline
    adv_norm: AdvantageNorm
    adv_eps: float

    def __call__(self, rewards_PG: torch.Tensor, source_PG: torch.Tensor, kept_PG: torch.Tensor) -> torch.Tensor:
        return group_advantages(
            rewards_PG, source_PG, kept_PG,
            std=self.adv_std, baseline=self.adv_baseline, norm=self.adv_norm, eps=self.adv_eps,
        )  # fmt: skip


def group_advantages(
    rewards_PG: torch.Tensor,
    source_PG: torch.Tensor,
    kept_PG: torch.Tensor,
    *,
    std: AdvantageStd,
    baseline: Baseline,
    norm: AdvantageNorm,
    eps: float,
) -> torch.Tensor:
    """Returns advantages_PG (float32): A = (r - baseline) / (std + eps) within each row.

    `std` divides by n - 1 (`sample`), by n (`population`), or not at all (`none`, as in Dr.GRPO).
    `baseline` is the `mean`, or the mean of the other candidates (`leave_one_out`, RLOO).
    `norm` takes statistics over the whole group (`mixed`, the paper), or over explorer and learner candidates apart
    (`split`, the released code).

    `kept_PG` (bool) leaves candidates out of the statistics, and their advantages are 0. The advantage is exactly 0 if
    all rewards are equal, and if there is only one candidate.

    Raises ValueError if the shapes differ or a reward is not finite.
    """
    if not rewards_PG.shape == source_PG.shape == kept_PG.shape or rewards_PG.dim() != 2:
        raise ValueError(
            f"rewards {tuple(rewards_PG.shape)}, sources {tuple(source_PG.shape)} and kept {tuple(kept_PG.shape)} must "
            "all be (P, G)"
        )
    if not torch.isfinite(rewards_PG).all():
        raise ValueError("every reward must be finite")
    rewards_PG = rewards_PG.double()
    match norm:
        case AdvantageNorm.mixed:
            members = [kept_PG]
        case AdvantageNorm.split:
            members = [kept_PG & (source_PG == Source.LEARNER), kept_PG & (source_PG != Source.LEARNER)]
        case _:
            assert_never(norm)
    parts = [_standardise(rewards_PG, member_PG, std=std, baseline=baseline, eps=eps) for member_PG in members]
    return torch.stack(parts).sum(0).float()


def zero_variance_fraction(rewards_PG: torch.Tensor, kept_PG: torch.Tensor) -> float:
    """Share of groups whose kept rewards are all equal. They give no gradient."""
    return (~has_variance(rewards_PG, kept_PG)).float().mean().item()


def has_variance(rewards_PG: torch.Tensor, kept_PG: torch.Tensor) -> torch.Tensor:
    """bool [P]: whether the kept rewards of a group differ."""
    highest_P, lowest_P = _extremes(rewards_PG, kept_PG)
    return highest_P > lowest_P


def needs_rescue(reward_PK: torch.Tensor, when: RescueWhen) -> torch.Tensor:
    """bool [P]: whether the explorers are to fill up a group whose first K samples have these rewards."""
    match when:
        case RescueWhen.all_wrong:
            return (reward_PK <= 0).all(dim=1)
        case RescueWhen.all_equal:
            return (reward_PK == reward_PK[:, :1]).all(dim=1)
        case _:
            assert_never(when)


def _standardise(
    rewards_PG: torch.Tensor, member_PG: torch.Tensor, *, std: AdvantageStd, baseline: Baseline, eps: float
) -> torch.Tensor:
    """Advantages of the members of each row among themselves. 0 for all others."""
    n_P1 = member_PG.sum(1, keepdim=True).clamp(min=1)
    mean_P1 = (rewards_PG * member_PG).sum(1, keepdim=True) / n_P1
    centred_PG = (rewards_PG - mean_P1) * member_PG
    others_P1 = (n_P1 - 1).clamp(min=1)
    squares_P1 = centred_PG.square().sum(1, keepdim=True)
    match baseline:
        case Baseline.mean:
            advantages_PG = centred_PG
        case Baseline.leave_one_out:
            # r - (n * mean - r) / (n - 1) = (r - mean) * n / (n - 1)
            advantages_PG = centred_PG * n_P1 / others_P1
        case _:
            assert_never(baseline)
    match std:
        case AdvantageStd.sample:
            advantages_PG = advantages_PG / ((squares_P1 / others_P1).sqrt() + eps)
        case AdvantageStd.population:
            advantages_PG = advantages_PG / ((squares_P1 / n_P1).sqrt() + eps)
        case AdvantageStd.none:
            pass
        case _:
            assert_never(std)
    # Rounding of the mean leaves 1e-17 instead of 0, and std + eps of the same size would make it visible.
    highest_P, lowest_P = _extremes(rewards_PG, member_PG)
    return torch.where(member_PG & (highest_P > lowest_P)[:, None], advantages_PG, 0.0)


def _extremes(rewards_PG: torch.Tensor, member_PG: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Highest and lowest reward among the members of each row."""
    highest_P = rewards_PG.masked_fill(~member_PG, -torch.inf).amax(1)
    return highest_P, rewards_PG.masked_fill(~member_PG, torch.inf).amin(1)
