"""Figures of a step, worked out by hand."""

from __future__ import annotations

import pytest

from s2l_nemo.algorithm.schedule import Split
from s2l_nemo.trainer.clock import PHASES, Clock
from s2l_nemo.trainer.metrics import rollout_metrics, throughput, update_metrics
from s2l_nemo.types import Completion, Group, Prompt, Source


def completion(
    prompt: int, sample: int, source: Source, length: int, reward: float, finish: str = "stop"
) -> Completion:
    return Completion(prompt, sample, source, tuple(range(length)), (-1.0,) * length, finish, 0, reward)  # type: ignore[arg-type]


def group(prompt: int, *completions: Completion) -> Group:
    return Group(Prompt(prompt, "?", "!", (1,)), completions)


E, L = Source.EXPLORER, Source.LEARNER
GROUPS = [
    group(7, completion(7, 0, E, 4, 1.0), completion(7, 1, L, 2, 0.0)),
    group(9, completion(9, 0, E, 8, 1.0, "length"), completion(9, 1, L, 6, 1.0)),
]


def test_rollout_metrics_by_source() -> None:
    metrics = rollout_metrics(Split(step=3, alpha=0.4, explorer=1, learner=1), GROUPS)
    assert metrics["alpha"] == 0.4
    assert (metrics["group/explorer"], metrics["group/learner"]) == (1, 1)
    assert (metrics["reward/mean"], metrics["reward/explorer"], metrics["reward/learner"]) == (0.75, 1.0, 0.5)
    assert metrics["response_length/mean"] == 5
    assert (metrics["response_length/explorer"], metrics["response_length/learner"]) == (6, 4)
    assert metrics["response_length/truncated_fraction"] == 0.25
    assert metrics["response_length/truncated_fraction_explorer"] == 0.5
    assert metrics["group/zero_variance_fraction"] == 0.5


def test_a_figure_without_a_basis_is_none() -> None:
    only_learner = [group(7, completion(7, 0, L, 4, 1.0), completion(7, 1, L, 2, 0.0))]
    metrics = rollout_metrics(Split(step=9, alpha=0.0, explorer=0, learner=2), only_learner)
    assert metrics["reward/explorer"] is None
    assert metrics["response_length/explorer"] is None
    sums = {"loss_sum": 0.5, "grad_norm": 3.0, "entropy_sum": 4.0, "entropy_tokens": 8.0, "lr": 1e-4}
    for name in ("tokens", "clipped", "ratio_sum", "logprob_diff_sum"):
        sums |= {name: 10.0, f"{name}_learner": 10.0, f"{name}_explorer": 0.0}
    figures = update_metrics(sums, updates=2)
    assert figures["kl"] is None  # no reference policy was asked for
    assert figures["logprob_diff/explorer"] is None
    assert (figures["loss"], figures["grad_norm"], figures["entropy"]) == (0.25, 1.5, 0.5)


def test_clock_sums_a_phase_and_leaves_out_what_was_not_needed() -> None:
    clock = Clock()
    for _ in range(2):
        with clock("reward"):
            pass
    metrics = clock.metrics()
    assert set(metrics) == {f"time/{phase}" for phase in PHASES} | {"time/step"}
    assert metrics["time/rollout_explorer"] is None
    assert metrics["time/reward"] is not None
    assert metrics["time/step"] is not None
    assert 0 <= metrics["time/reward"] <= metrics["time/step"]


def test_throughput_is_tokens_over_the_seconds_of_its_phases() -> None:
    clock = Clock()
    clock.seconds = {"rollout": 2.0, "rollout_explorer": 1.5, "rollout_learner": 1.5, "logprobs": 2.0, "update": 3.0}
    metrics = throughput(clock, GROUPS, trained_tokens=40)
    assert metrics == {"throughput/rollout_tokens_per_s": 10.0, "throughput/train_tokens_per_s": 8.0}
    clock.seconds = {}
    assert throughput(clock, GROUPS, 40)["throughput/rollout_tokens_per_s"] is None


def test_an_ungraded_completion_is_an_error() -> None:
    ungraded = Completion(7, 0, L, (1,), (-1.0,), "stop", 0)
    with pytest.raises(ValueError, match="has no reward"):
        group(7, ungraded).rewards_G()
