"""Which runs may use stored rollouts without log-probs of their sampler."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from omegaconf import OmegaConf

from s2l_nemo.algorithm.losses.aggregation import LossScale
from s2l_nemo.algorithm.losses.policy import PolicyLoss
from s2l_nemo.algorithm.options import IMPORTANCE
from s2l_nemo.config.schema import Config
from s2l_nemo.trainer.stored import needs_logprobs
from s2l_nemo.types import Source, TrainBatch


def loss_with(options: Any, sampler_logprob: float, advantage: float) -> float:
    """Of two answers, the explorer's with this advantage, and this log-prob of each token."""
    ones_BS = torch.ones(2, 3)
    batch = TrainBatch(
        tokens_BT=torch.arange(8).view(2, 4),
        mask_BS=ones_BS,
        sampler_logprobs_BS=torch.tensor([[sampler_logprob], [-1.0]]) * ones_BS,
        advantages_B=torch.tensor([advantage, -0.5]),
        source_B=torch.tensor([Source.EXPLORER, Source.LEARNER]),
        prompt_length_B=torch.ones(2, dtype=torch.long),
        length_B=torch.full((2,), 4),
        prompt_id_B=torch.zeros(2, dtype=torch.long),
        sample_id_B=torch.arange(2),
        old_logprobs_BS=-1.5 * ones_BS,
        group_logprob_B=torch.full((2,), sampler_logprob),
    )
    value, _ = PolicyLoss.of(options)(-1.25 * ones_BS, batch, LossScale(6, 2, 8))
    return value.item()


@pytest.mark.parametrize("to_sampler", [False, True])
@pytest.mark.parametrize("rule", IMPORTANCE.names())
def test_a_rule_needs_the_samplers_log_probs_if_they_change_its_loss(rule: str, to_sampler: bool) -> None:
    cfg = cast(Config, OmegaConf.structured(Config))
    cfg.algorithm.importance, cfg.algorithm.ratio_to_sampler, cfg.algorithm.kl_coef = rule, to_sampler, 0.0
    cfg.algorithm.clip_low = cfg.algorithm.clip_high = None
    logprobs = (0.0, -0.5, -1.25, -3.0, -9.0)
    losses = [{loss_with(cfg.algorithm, logprob, advantage) for logprob in logprobs} for advantage in (1.0, -1.0)]
    assert needs_logprobs(cfg) == any(len(found) > 1 for found in losses)


def test_a_rule_of_a_user_may_read_them() -> None:
    cfg = cast(Config, OmegaConf.structured(Config))
    cfg.algorithm.importance = "my.rules:Mine"
    assert needs_logprobs(cfg)
