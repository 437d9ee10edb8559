"""A run whose loss rule, aggregation, schedule, advantage and reward are a user's, each named by its import path."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.config.checks import check_config
from s2l_nemo.config.load import load_config
from s2l_nemo.records.metrics import read_metrics
from s2l_nemo.rewards.grader import make_grader
from tests.distributed.models import write_qwen3
from tests.distributed.ranks import run_ranks
from tests.distributed.test_training import BASE, CONF, layout, rollouts, train

OWN = '''
from dataclasses import dataclass
from fractions import Fraction

from s2l_nemo.algorithm.losses.aggregation import token_mean
from s2l_nemo.algorithm.losses.importance.learner_old import LearnerOld
from s2l_nemo.algorithm.schedule import ScheduleKind

HALF = ScheduleKind(lambda step, options, outcomes: Fraction(1, 2), uses_t_mix=False)


@dataclass(frozen=True)
class EvenTokens:
    """Accepts tokens with an even number, with twice the ratio."""

    def __call__(self, tokens):
        plain = LearnerOld()(tokens)
        return plain._replace(ratio_BS=2 * plain.ratio_BS, accepted_BS=tokens.token_BS % 2 == 0)


@dataclass(frozen=True)
class Raw:
    """The reward times a key."""

    adv_eps: float

    def __call__(self, rewards_PG, source_PG, kept_PG):
        return rewards_PG * self.adv_eps


def doubled(losses_BS, mask_BS, scale):
    return 2 * token_mean(losses_BS, mask_BS, scale)


def length(response, answer, prompt):
    return len(response)
'''


def own_run(folder: str, overrides: list[str]) -> dict[str, Any]:
    """One rank, whose process ends with the test."""
    sys.path.insert(0, folder)
    cfg = load_config(overrides, CONF)
    check_config(cfg)
    return train(overrides, make_grader(cfg.data, cfg.rewards))


def test_a_run_with_import_paths(tmp_path: Path) -> None:
    (tmp_path / "own_run.py").write_text(OWN)
    learner = write_qwen3(tmp_path / "learner", seed=0)
    explorer = write_qwen3(tmp_path / "explorer", seed=1, hidden=32)
    choices = {"importance": "EvenTokens", "aggregation": "doubled", "schedule.name": "HALF", "advantage": "Raw"}
    overrides = [
        *BASE, f"model.path={learner}", f"explorer.path={explorer}", f"run.dir={tmp_path / 'run'}", *layout(2, 1, 2),
        *(f"algorithm.{key}=own_run:{name}" for key, name in choices.items()), "rewards.fn=own_run:length",
        "algorithm.steps=2", "algorithm.schedule.t_mix=null", "algorithm.adv_eps=0.5", "algorithm.kl_coef=0",
        "algorithm.rejected=drop", "model.optim.lr=1e-30", "algorithm.clip_high=null",
    ]  # fmt: skip
    run_ranks(own_run, 2, str(tmp_path), overrides)
    for step, line in enumerate(read_metrics(tmp_path / "run" / "metrics.jsonl"), 1):
        rows = rollouts(tmp_path / "run", step)
        assert line["group/explorer"] == 2
        assert line["ratio/mean"] == pytest.approx(2.0, abs=1e-3)
        assert all(row.reward == len(row.response) for row in rows)
        assert all(row.advantage == pytest.approx(row.reward / 2) for row in rows)
        rewards = [row.reward for row in rows for token in row.token_ids if token % 2 == 0]
        assert 0 < len(rewards) < sum(len(row.token_ids) for row in rows)
        assert line["loss"] == pytest.approx(2 * -sum(2 * reward / 2 for reward in rewards) / len(rewards), rel=1e-4)
