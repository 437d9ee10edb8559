"""Keys of the optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from s2l_nemo.fields import BELOW_ONE, COUNT, NON_NEGATIVE, POSITIVE, key


class LrSchedule(str, Enum):
    constant = "constant"
    cosine = "cosine"


@dataclass
class OptimConfig:
    lr: float = key(1e-6, "learning rate of AdamW after the warm-up", POSITIVE, may_change=True)
    lr_schedule: LrSchedule = key(LrSchedule.constant, "constant after the warm-up, or a cosine to min_lr")
    warmup_steps: int = key(0, "optimizer steps in which the learning rate rises from 0 to lr", COUNT)
    min_lr: float = key(
        0.0, "end of the cosine, and the rate of steps that are added to a run", NON_NEGATIVE, may_change=True
    )
    weight_decay: float = key(0.0, "weight decay of AdamW", NON_NEGATIVE)
    beta1: float = key(0.9, "decay of AdamW's mean of gradients", BELOW_ONE)
    beta2: float = key(0.999, "decay of AdamW's mean of squared gradients", BELOW_ONE)
    eps: float = key(1e-8, "added to AdamW's denominator", POSITIVE)
    clip_grad: float = key(1.0, "gradients of a larger norm are scaled down to this norm", POSITIVE)
