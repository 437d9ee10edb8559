"""Keys of `algorithm` that a step itself follows: rejected tokens, the penalty for length, an own advantage."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp
from pathlib import Path
from typing import Any

import pytest
import torch

from s2l_nemo.algorithm.losses.aggregation import LossScale
from s2l_nemo.algorithm.options import ADVANTAGES, AlgorithmConfig, Rejected
from s2l_nemo.trainer.stop import StopRequest
from tests.registered import registered
from tests.trainer.scripted import ONE_RANK, ScriptedActor
from tests.trainer.test_train_step import ALGORITHM, actor, step_run
from tests.trainer.world import ThreadRanks, on_all_ranks

# pi_old/pi_sampler: learner exp(1/16) and exp(1/8); explorer exp(-1/2) of (7, 0) and exp(-1/4) of (9, 0).
# From 0.7 on, the two tokens of (7, 0) are rejected.
DROP = replace(
    ALGORITHM, importance="masked", importance_floor=0.7, rejected=Rejected.drop, kl_coef=0.0, optimizer_passes=1
)


@pytest.mark.parametrize("passes", [1, 2])
def test_dropped_tokens_leave_the_division(tmp_path: Path, stop: StopRequest, passes: int) -> None:
    run = step_run(tmp_path, stop, replace(DROP, optimizer_passes=passes))
    metrics, _, _ = run.trainer.train_step(1)
    # prompt 7 has 2 | 1 1 3 tokens (explorer | learner), prompt 9 has 4 | 1 2 2
    assert run.actor.scales == [LossScale(5, 3, 8), LossScale(9, 4, 8)] * passes
    (ahead,) = run.actor.batches
    assert ahead.prompt_id_B.tolist() == [7] * 4 + [9] * 4  # the first update needs old log-probs too
    assert all(batch.old_logprobs_BS is not None for batch in run.actor.mini_batches)
    assert metrics["rejected_fraction"] == 2 / 16
    assert (metrics["rejected_fraction/explorer"], metrics["rejected_fraction/learner"]) == (2 / 6, 0)
    assert metrics["entropy"] == pytest.approx((2 * 0.5 + 5 * 0.25 + 4 * 0.75 + 5 * 0.125) / 16)
    if passes == 1:
        # A of prompt 7: 3/4 and -1/4, of prompt 9: -1/2, 1/2, 1/2, -1/2
        first = 5 * 0.25 * exp(1 / 16) / 5
        second = -(-4 * 0.5 * exp(-1 / 4) + 0.5 * (1 + 2 - 2) * exp(1 / 8)) / 9
        assert metrics["loss"] == pytest.approx((first + second) / 2, rel=1e-5)


def test_kept_tokens_stay_in_it(tmp_path: Path, stop: StopRequest) -> None:
    run = step_run(tmp_path, stop, replace(DROP, rejected=Rejected.keep))
    run.trainer.train_step(1)
    assert run.actor.scales == [LossScale(7, 4, 8), LossScale(9, 4, 8)]
    assert run.actor.mini_batches[0].old_logprobs_BS is None


def test_the_counts_are_those_of_all_replicas(tmp_path: Path, stop: StopRequest) -> None:
    algorithm = replace(DROP, mini_batch_prompts=2)
    elsewhere = {"accepted_tokens": 100.0, "accepted_sequences": 10.0}

    def job(ranks: ThreadRanks) -> ScriptedActor:
        script = actor(rank=ranks.rank, replicas=2, elsewhere=elsewhere)
        run = step_run(tmp_path / str(ranks.rank), stop, algorithm, script, ranks=ranks)
        run.trainer.train_step(1)
        return run.actor

    # prompt 9 has more tokens, so it goes to the first replica
    first, second = on_all_ranks(job, replica_of=[0, 1])
    assert first.scales == [LossScale(109, 14, 8)]
    assert second.scales == [LossScale(105, 13, 8)]


@pytest.mark.parametrize(
    ("changes", "rewards_7", "rewards_9"),
    [
        # lengths 2 1 1 3 and 4 1 2 2 of at most 8; rewards 1 0 0 0 and 0 1 1 0
        ({}, [1, 0, 0, 0], [0, 1, 1, 0]),
        ({"overlong_buffer": 6}, [1, 0, 0, -1 / 6], [-2 / 6, 1, 1, 0]),
        ({"overlong_buffer": 8, "overlong_penalty": 2.0}, [0.5, -0.25, -0.25, -0.75], [-1, 0.75, 0.5, -0.5]),
    ],
)
def test_long_answers_lose_reward_before_advantages(
    tmp_path: Path, stop: StopRequest, changes: dict[str, Any], rewards_7: list[float], rewards_9: list[float]
) -> None:
    run = step_run(tmp_path, stop, replace(ALGORITHM, **changes))
    metrics, groups, advantages_PG = run.trainer.train_step(1)
    wanted_PG = torch.tensor([rewards_7, rewards_9], dtype=torch.float32)
    assert torch.allclose(advantages_PG, wanted_PG - wanted_PG.mean(1, keepdim=True))
    assert groups.reward_PG.tolist() == [[1, 0, 0, 0], [0, 1, 1, 0]]
    assert metrics["reward/mean"] == 3 / 8


@dataclass(frozen=True)
class ExplorerOnly:
    """The reward itself, of the explorer's answers."""

    adv_eps: float

    def __call__(self, rewards_PG: torch.Tensor, source_PG: torch.Tensor, kept_PG: torch.Tensor) -> torch.Tensor:
        assert (rewards_PG.dtype, source_PG.dtype, kept_PG.dtype) == (torch.float64, torch.int64, torch.bool)
        return (rewards_PG + self.adv_eps) * (source_PG == 1) * kept_PG


def test_an_advantage_of_ones_own(tmp_path: Path, stop: StopRequest) -> None:
    algorithm: AlgorithmConfig = replace(ALGORITHM, advantage="explorer_only", adv_eps=0.25)
    with registered(ADVANTAGES, "explorer_only", ExplorerOnly):
        run = step_run(tmp_path, stop, algorithm, ranks=ONE_RANK)
        _, _, advantages_PG = run.trainer.train_step(1)
    assert advantages_PG.tolist() == [[1.25, 0, 0, 0], [0.25, 0, 0, 0]]
    assert run.actor.mini_batches[0].advantages_B.tolist() == [1.25, 0, 0, 0]
