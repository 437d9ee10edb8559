"""A step in one part, as in the paper, or in two, as in the released code: the explorer's answers, then the learner's.

With `rollout.two_updates` no group is mixed. The learner is updated on the explorer's G_w answers to each prompt, and
its engine is refitted. Then it samples its own G_s answers to the same prompts, and is updated on those. Advantages are
taken over each half.

With `explorer.source=learner` there is no explorer. The learner samples the first half, too, with its weights before
the step, and makes the same updates: a GRPO that differs from S2L-PO in who explores, and in nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from s2l_nemo.algorithm.schedule import Split
from s2l_nemo.trainer.group_sampler import Sampled
from s2l_nemo.trainer.sums import StepSums


@dataclass(frozen=True)
class Learned:
    """Groups, and what came of the updates on them."""

    sampled: Sampled
    advantages_PG: torch.Tensor
    sums: StepSums
    dropped: int  # groups without a gradient that were left out


def parts_of(split: Split, *, two_updates: bool) -> list[Split]:
    """The parts of a step that have any samples."""
    if not two_updates:
        return [split]
    parts = [replace(split, learner=0), replace(split, explorer=0)]
    return [part for part in parts if part.explorer + part.learner]


def joined(first: Learned, second: Learned) -> Learned:
    """Two parts of a step as one: groups of the same prompts side by side, sums added up."""
    sampled = replace(
        first.sampled,
        groups=first.sampled.groups.beside(second.sampled.groups),
        zero_variance=(first.sampled.zero_variance + second.sampled.zero_variance) / 2,
    )
    advantages_PG = torch.cat([first.advantages_PG, second.advantages_PG], dim=1)
    return Learned(sampled, advantages_PG, first.sums.and_then(second.sums), first.dropped + second.dropped)
