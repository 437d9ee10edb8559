"""Figures of a step, worked out by hand."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest

from s2l_nemo.algorithm.schedule import Split
from s2l_nemo.trainer.clock import Clock
from s2l_nemo.trainer.exchange import StepGroups
from s2l_nemo.trainer.metrics import rollout_metrics, throughput, update_metrics
from s2l_nemo.trainer.sums import StepSums
from s2l_nemo.types import Completion, FinishReason, Group, Prompt, Source
from tests.arrays import ids, lps
from tests.trainer.scripted import ScriptedTime
from tests.trainer.world import on_all_ranks


def completion(
    prompt: int, sample: int, source: Source, length: int, reward: float, finish: FinishReason = "stop"
) -> Completion:
    return Completion(prompt, sample, source, ids(range(length)), lps([-1.0] * length), finish, 0, reward)


def group(prompt: int, *completions: Completion) -> Group:
    return Group(Prompt(prompt, "?", "!", (1,)), completions)


def step_groups(*groups: Group) -> StepGroups:
    (gathered,) = on_all_ranks(lambda ranks: StepGroups.gather(ranks, [group.prompt for group in groups], groups), [0])
    return gathered


E, L = Source.EXPLORER, Source.LEARNER
NAMES = (
    "tokens", "clipped", "rejected", "ratio_sum", "logprob_diff_sum", "weight_sum", "weight_square_sum",
    "sampler_kl_sum",
)  # fmt: skip
LEARNER, EXPLORER = ([f"{name}_{source}" for name in NAMES] for source in ("learner", "explorer"))
GROUPS = step_groups(
    group(7, completion(7, 0, E, 4, 1.0), completion(7, 1, L, 2, 0.0)),
    group(9, completion(9, 0, E, 8, 1.0, "length"), completion(9, 1, L, 6, 1.0)),
)


def test_rollout_metrics_by_source() -> None:
    assert rollout_metrics(Split(step=3, alpha=0.4, explorer=1, learner=1), GROUPS) == {
        "alpha": 0.4,
        "group/explorer": 1,
        "group/learner": 1,
        "group/zero_variance_fraction": 0.5,
        "group/kept": 2.0,
        "reward/mean": 0.75,
        "reward/explorer": 1.0,
        "reward/learner": 0.5,
        "reward/grader_errors": 0,
        "reward/answered_fraction": 0.0,
        "response_length/mean": 5.0,
        "response_length/explorer": 6.0,
        "response_length/learner": 4.0,
        "response_length/truncated_fraction": 0.25,
        "response_length/truncated_fraction_explorer": 0.5,
        "response_length/truncated_fraction_learner": 0.0,
    }


def test_what_the_filter_left_out_is_counted_as_a_rollout_and_not_as_kept() -> None:
    right, wrong = completion(7, 0, E, 4, 1.0), completion(7, 1, L, 2, 0.0)
    failed = replace(wrong, grader_error="killed")
    groups = step_groups(group(7, replace(right, kept=False), wrong, wrong), group(9, right, failed, failed))
    metrics = rollout_metrics(Split(step=3, alpha=0.4, explorer=1, learner=2), groups)
    assert metrics["group/kept"] == 2.5
    assert metrics["group/zero_variance_fraction"] == 0.5  # without the explorer's answer the first group is equal
    assert (metrics["reward/explorer"], metrics["response_length/explorer"]) == (1.0, 4.0)
    assert metrics["reward/grader_errors"] == 2


def test_answers_that_were_found_are_counted_right_or_wrong() -> None:
    right, wrong = (replace(completion(7, k, L, 4, float(1 - k)), answer=str(k)) for k in range(2))
    silent = completion(7, 2, L, 4, 0.0)
    groups = step_groups(group(7, right, wrong, silent, silent))
    metrics = rollout_metrics(Split(step=3, alpha=0.0, explorer=0, learner=4), groups)
    assert metrics["reward/answered_fraction"] == 0.5


def test_a_figure_without_a_basis_is_none() -> None:
    only_learner = step_groups(group(7, completion(7, 0, L, 4, 1.0), completion(7, 1, L, 2, 0.0)))
    metrics = rollout_metrics(Split(step=9, alpha=0.0, explorer=0, learner=2), only_learner)
    assert metrics["reward/explorer"] is None
    assert metrics["response_length/explorer"] is None
    sums = StepSums(entropy=4.0, entropy_tokens=8.0).plus(
        {"loss_sum": 0.5, **dict.fromkeys(NAMES, 10.0), **dict.fromkeys(LEARNER, 10.0), **dict.fromkeys(EXPLORER, 0.0)},
        {"grad_norm": 3.0, "lr": 1e-4, "skipped": 0.0},
    )
    assert update_metrics(sums) == {
        "loss": 0.5, "grad_norm": 3.0, "entropy": 0.5, "train/skipped": 0,
        "kl": None, "kl/explorer": None, "kl/learner": None,  # no reference policy was asked for
        "clip_fraction": 1.0, "clip_fraction/explorer": None, "clip_fraction/learner": 1.0,
        "rejected_fraction": 1.0, "rejected_fraction/explorer": None, "rejected_fraction/learner": 1.0,
        "ratio/mean": 1.0, "ratio/explorer": None, "ratio/learner": 1.0,
        "logprob_diff/explorer": None, "logprob_diff/learner": 1.0,
        "sample_size/explorer": None, "sample_size/learner": 1.0,
        "sampler_kl/explorer": None, "sampler_kl/learner": 1.0,
        "gradient/explorer": None, "gradient/learner": None,  # no loss was differentiated
    }  # fmt: skip


def test_a_step_in_which_every_answer_was_masked_has_no_token_figures() -> None:
    nothing = {"loss_sum": 0.0, **dict.fromkeys((*NAMES, *LEARNER, *EXPLORER), 0.0)}
    figures = update_metrics(StepSums(0.0, 0.0).plus(nothing, {"grad_norm": 0.0, "lr": 1e-4, "skipped": 0.0}))
    assert {key for key, value in figures.items() if value is not None} == {"loss", "grad_norm", "train/skipped"}


def test_clock_sums_a_phase_and_leaves_out_what_was_not_needed() -> None:
    time = ScriptedTime()
    clock = Clock(time)
    with clock("reward"):
        time.passes(1.5)
    time.passes(0.25)
    with suppress(RuntimeError), clock("reward"):
        time.passes(2.0)
        raise RuntimeError  # a phase that fails has taken its time too
    assert clock.metrics() == {
        "time/rollout": None, "time/rollout_explorer": None, "time/rollout_learner": None, "time/explorer_ahead": None,
        "time/exchange": None,
        "time/reward": 3.5, "time/explorer_filter": None, "time/logprobs": None, "time/update": None,
        "time/refit": None, "time/step": 3.75,
    }  # fmt: skip


def test_throughput_is_tokens_over_the_seconds_of_its_phases() -> None:
    clock = Clock()
    clock.seconds = {"rollout": 2.0, "rollout_explorer": 1.5, "rollout_learner": 1.5, "logprobs": 2.0, "update": 3.0}
    metrics = throughput(clock, GROUPS, trained_tokens=40)
    assert metrics == {"throughput/rollout_tokens_per_s": 10.0, "throughput/train_tokens_per_s": 8.0}
    clock.seconds = {}
    assert set(throughput(clock, GROUPS, 40).values()) == {None}


def test_an_ungraded_completion_is_an_error() -> None:
    ungraded = Completion(7, 0, L, ids([1]), lps([-1.0]), "stop", 0)
    with pytest.raises(ValueError, match="has no reward"):
        group(7, ungraded).rewards_G()
