"""What the explorer did for the groups of a step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from s2l_nemo.measures.statistics import mean
from s2l_nemo.trainer.exchange import StepGroups
from s2l_nemo.trainer.metrics import Metrics, ratio, source_masks


def group_metrics(groups: StepGroups, advantages_PG: torch.Tensor, explorers: Sequence[str] = ()) -> Metrics:
    """Shares of groups, and advantages by source. None without a basis.

    - `rescue/variance`: of the groups that both have sampled, those in which the learner's rewards are all equal and
      the group's are not. Without the explorer they would give no gradient.
    - `rescue/only_explorer`: of the same groups, those in which only the explorer has a reward above 0.
    - `pass@G/SOURCE`: of the groups that the source has sampled, those in which it has a reward above 0.
    - `advantage/SOURCE`: mean advantage. `advantage/abs_share_SOURCE`: its part of the sum of |advantage| over tokens.
    """
    masks = source_masks(groups, explorers)
    learner_PG, explorer_PG = masks["learner"], masks["explorer"]
    right_PG, reward_PG = groups.reward_PG > 0, groups.reward_PG
    both_P = learner_PG.any(1) & explorer_PG.any(1)
    highest_P = reward_PG.masked_fill(~learner_PG, -torch.inf).amax(1)
    lowest_P = reward_PG.masked_fill(~learner_PG, torch.inf).amin(1)
    differs_P = reward_PG.amax(1) > reward_PG.amin(1)
    only_P = (right_PG & explorer_PG).any(1) & ~(right_PG & learner_PG).any(1)
    metrics: Metrics = {
        "rescue/variance": _share(differs_P & (highest_P == lowest_P), both_P),
        "rescue/only_explorer": _share(only_P, both_P),
    }
    weight_PG = advantages_PG.double().abs() * groups.length_PG * groups.kept_PG
    whole = weight_PG.sum().item()
    for name, mask_PG in masks.items():
        metrics[f"pass@G/{name}"] = _share((right_PG & mask_PG).any(1), mask_PG.any(1))
        metrics[f"advantage/{name}"] = mean(advantages_PG[mask_PG & groups.kept_PG].double().tolist())
        metrics[f"advantage/abs_share_{name}"] = ratio((weight_PG * mask_PG).sum().item(), whole)
    return metrics


def _share(hit_P: torch.Tensor, of_P: torch.Tensor) -> float | None:
    return ratio((hit_P & of_P).sum().item(), of_P.sum().item())
