"""One training step with hand-chosen answers, log-probs and seconds: every figure is worked out here."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log
from pathlib import Path
from typing import Any

import pytest
import torch

from s2l_nemo.algorithm.groups import explorer_seed, sample_seed
from s2l_nemo.algorithm.losses.aggregation import LossScale
from s2l_nemo.algorithm.options import AdvantageNorm, AdvantageStd, AlgorithmConfig, Baseline, KLEstimator
from s2l_nemo.algorithm.schedule import ScheduleConfig
from s2l_nemo.measures.diversity import self_bleu, unique_fraction
from s2l_nemo.rewards.grader import GradeItem
from s2l_nemo.trainer.exchange import StepGroups
from s2l_nemo.trainer.metrics import Metrics
from s2l_nemo.trainer.stop import StopRequest
from s2l_nemo.types import SampleRequest, Source
from tests.trainer.scripted import (
    GARBAGE,
    PAD,
    RUN_SEED,
    SAMPLING,
    Answer,
    Run,
    ScriptedActor,
    assert_metrics,
    make_run,
    prompts,
)
from tests.trainer.world import ThreadRanks, on_all_ranks

# Explorer: sample 0 of each group. Learner: samples 1, 2 and 3. Rewards of prompt 7: 1 0 0 0; of prompt 9: 0 1 1 0.
ANSWERS = {
    (7, 0): Answer((1, 4), -1.5),
    (7, 1): Answer((0,), -1.0625),
    (7, 2): Answer((0,), -1.0625),
    (7, 3): Answer((0, 5, 5), -1.0625, "length"),
    (9, 0): Answer((0, 6, 6, 6), -1.75, "length"),
    (9, 1): Answer((1,), -1.125),
    (9, 2): Answer((1, 8), -1.125),
    (9, 3): Answer((9, 8), -1.125),  # this check fails
}
ALGORITHM = AlgorithmConfig(
    steps=2,
    prompts_per_step=2,
    group_size=4,
    mini_batch_prompts=1,
    optimizer_passes=2,
    schedule=ScheduleConfig(name="constant", alpha=0.25),
    kl_coef=0.5,
    kl_estimator=KLEstimator.k1,
    adv_std=AdvantageStd.none,
)
# pi / old in the second pass, of each answer. In the first one it is 1: nothing has been updated.
RATIOS = {(7, 0): 1.5, (7, 1): 0.5, (7, 2): 1.25, (7, 3): 1.0, (9, 0): 0.5, (9, 1): 1.1, (9, 2): 1.5, (9, 3): 2.0}


def answer(request: SampleRequest) -> Answer:
    return ANSWERS[request.prompt_id, request.sample_id]


def actor(**changes: Any) -> ScriptedActor:
    script: dict[str, Any] = {
        "old": lambda prompt, sample: -1.0 if sample else -2.0,
        # old - ref: explorer 0.25 and 0.5, learner 0.125 and 0.0625
        "ref": lambda prompt, sample: {7: -1.125, 9: -1.0625}[prompt] if sample else {7: -2.25, 9: -2.5}[prompt],
        "entropy": lambda prompt, sample: {7: 0.25, 9: 0.125}[prompt] if sample else {7: 0.5, 9: 0.75}[prompt],
        "ratio": lambda update, prompt, sample: 1.0 if update < 2 else RATIOS[prompt, sample],
        "grad_norms": lambda update: [1.0, 2.0, 4.0, 9.0][update],
        "lrs": lambda update: [0.1, 0.2, 0.3, 0.4][update],
    }
    return ScriptedActor(**(script | changes))


def step_run(
    folder: Path, stop: StopRequest, algorithm: AlgorithmConfig = ALGORITHM, scripted: ScriptedActor | None = None,
    **settings: Any,
) -> Run:  # fmt: skip
    scripted = scripted or actor()
    return make_run(
        folder, stop, algorithm, train=prompts(7, 9), by_explorer=answer, by_learner=answer, actor=scripted, **settings
    )


# What the loss does not enter. The explorer made 6 tokens in 2 samples, the learner 10 in 6.
OUTSIDE_THE_LOSS = {
    "alpha": 0.25,
    "group/explorer": 1,
    "group/learner": 3,
    "group/zero_variance_fraction": 0.0,
    "group/kept": 4.0,
    "group/dropped": 0,
    "train/skipped": 0,
    "group/zero_variance_first": 0.0,
    "group/refilled": 0,
    "group/refill_prompts": 0,
    "reward/mean": 3 / 8,
    "reward/explorer": 1 / 2,
    "reward/learner": 2 / 6,
    "reward/grader_errors": 1,
    "reward/answered_fraction": 7 / 8,  # all but the check that failed
    "response_length/mean": 16 / 8,
    "response_length/explorer": 6 / 2,
    "response_length/learner": 10 / 6,
    "response_length/truncated_fraction": 2 / 8,
    "response_length/truncated_fraction_explorer": 1 / 2,
    "response_length/truncated_fraction_learner": 1 / 6,
    "logprob_diff/explorer": (2 * 0.5 + 4 * 0.25) / 6,
    "logprob_diff/learner": (5 * 0.0625 + 5 * 0.125) / 10,
    # w = old / sampler: explorer exp(-0.5) on 2 tokens, exp(-0.25) on 4; learner exp(0.0625) and exp(0.125) on 5 each
    "sampler_kl/explorer": (2 * 0.5 + 4 * 0.25) / 6,
    "sampler_kl/learner": -(5 * 0.0625 + 5 * 0.125) / 10,
    "sample_size/explorer": (2 * exp(-0.5) + 4 * exp(-0.25)) ** 2 / (6 * (2 * exp(-1) + 4 * exp(-0.5))),
    "sample_size/learner": (5 * exp(0.0625) + 5 * exp(0.125)) ** 2 / (10 * (5 * exp(0.125) + 5 * exp(0.25))),
    # Prompt 7: the learner's three are wrong, the explorer's one is right.
    "rescue/variance": 1 / 2,
    "rescue/only_explorer": 1 / 2,
    "pass@G/explorer": 1 / 2,
    "pass@G/learner": 1 / 2,
    "advantage/explorer": (0.75 - 0.5) / 2,
    "advantage/learner": (-3 * 0.25 + 0.5) / 6,
    # |A| times tokens: explorer 0.75 * 2 and 0.5 * 4, learner 0.25 * 5 and 0.5 * 5
    "advantage/abs_share_explorer": 3.5 / 7.25,
    "advantage/abs_share_learner": 3.75 / 7.25,
    # The explorer has one answer in each group. Learner: 0, 0, 5 of prompt 7; 1, 8 and a failed check of prompt 9.
    **{f"diversity/{name}_explorer": None for name in ("self_bleu", "edit", "unique_answers")},
    "diversity/unique_answers_learner": (unique_fraction(["0", "0", "5"]) + unique_fraction(["1", "8", None])) / 2,
    "diversity/edit_learner": ((0 + 2 / 3 + 2 / 3) / 3 + (1 / 2 + 1 + 1 / 2) / 3) / 2,
    "diversity/self_bleu_learner": (self_bleu([[0], [0], [0, 5, 5]]) + self_bleu([[1], [1, 8], [9, 8]])) / 2,
    "total/prompts": 2,
    "total/tokens_explorer": 6,
    "total/tokens_learner": 10,
    "total/tokens_trained": 32,
    # 22 for a token, 8 for a pair that sees each other, 4 for the output layer, in a forward pass of `small_shape`.
    # Explorer: 2 tokens to a prompt of 2, and 4 to one of 1. Learner: 1, 1, 3 to the first, 1, 2, 2 to the second.
    "total/flops_explorer": 160 + 226,
    "total/flops_learner": 314 + 232,
    # A forward pass over both groups, 8 times: two passes of three each, old log-probs and the reference's.
    "total/flops_trained": 8 * (414 + 432),
    "total/flops": 160 + 226 + 314 + 232 + 8 * (414 + 432),
    "total/seconds_explorer": 1.5,
    "total/seconds_learner": 0.5,
    "time/rollout": 2.0,
    "time/rollout_explorer": 1.5,
    "time/rollout_learner": 0.5,
    "time/explorer_ahead": None,
    "time/exchange": 0.0,
    "time/reward": 0.25,
    "time/explorer_filter": None,
    "time/logprobs": 0.1875,
    "time/update": 1.0,
    "time/refit": 0.5,
    "time/step": 3.9375,
    "throughput/rollout_tokens_per_s": 16 / 2.0,
    "throughput/train_tokens_per_s": 32 / 1.1875,
    "refit/bytes": None,
    "refit/bytes_per_s": None,
    "engine/restarts": None,
}


def test_every_metric_of_a_step(tmp_path: Path, stop: StopRequest) -> None:
    metrics, _, _ = step_run(tmp_path, stop).trainer.train_step(1)
    # Tokens: prompt 7 has 2 | 1 1 3 (explorer | learner), prompt 9 has 4 | 1 2 2. Two passes count each twice.
    # KL (k1) is policy - ref: in the first pass old - ref, in the second log(ratio) more for each token.
    kl_explorer_7, kl_learner_7 = 2 * 0.25, 5 * 0.125
    kl_explorer_9, kl_learner_9 = 4 * 0.5, 5 * 0.0625
    more_explorer_7, more_learner_7 = 2 * log(1.5), log(0.5) + log(1.25)
    more_explorer_9, more_learner_9 = 4 * log(0.5), log(1.1) + 2 * log(1.5) + 2 * log(2.0)
    kl_explorer = 2 * (kl_explorer_7 + kl_explorer_9) + more_explorer_7 + more_explorer_9
    kl_learner = 2 * (kl_learner_7 + kl_learner_9) + more_learner_7 + more_learner_9
    # A of prompt 7: 3/4 and -1/4, of prompt 9: -1/2, 1/2, 1/2, -1/2. The ratio is clipped to 0.8 .. 1.2 where
    # that lowers the objective. Losses: (-sum of objectives + kl_coef * KL) / tokens of the mini-batch.
    objectives = [
        2 * 0.75 - 5 * 0.25,
        -4 * 0.5 + 0.5 + 2 * 0.5 - 2 * 0.5,
        2 * 1.2 * 0.75 - 0.8 * 0.25 - 1.25 * 0.25 - 3 * 0.25,
        -4 * 0.8 * 0.5 + 1.1 * 0.5 + 2 * 1.2 * 0.5 - 2 * 2.0 * 0.5,
    ]
    kls = [kl_explorer_7 + kl_learner_7, kl_explorer_9 + kl_learner_9]
    kls += [kls[0] + more_explorer_7 + more_learner_7, kls[1] + more_explorer_9 + more_learner_9]
    losses = [
        (0.5 * kl - objective) / tokens for kl, objective, tokens in zip(kls, objectives, (7, 9, 7, 9), strict=True)
    ]
    assert_metrics(
        metrics,
        {
            **OUTSIDE_THE_LOSS,
            "loss": sum(losses) / 4,
            "grad_norm": (1 + 2 + 4 + 9) / 4,
            "lr": 0.4,  # of the last update
            "kl": (kl_explorer + kl_learner) / 32,
            "kl/explorer": kl_explorer / 12,
            "kl/learner": kl_learner / 20,
            "entropy": (2 * 0.5 + 5 * 0.25 + 4 * 0.75 + 5 * 0.125) / 16,
            # clipped in the second pass: explorer 2 + 4 tokens, learner 1 (ratio 0.5, A < 0) + 2 (1.5, A > 0)
            "clip_fraction": 9 / 32,
            "clip_fraction/explorer": 6 / 12,
            "clip_fraction/learner": 3 / 20,
            "rejected_fraction": 0.0,
            "rejected_fraction/explorer": 0.0,
            "rejected_fraction/learner": 0.0,
            # |kl_coef - A ratio| where no clip has stopped the ratio, else kl_coef; over the tokens of the mini-batch
            "gradient/explorer": (1.5 / 7 + 6 / 9) / (1.5 / 7 + 6 / 9 + 7.3125 / 7 + 6.05 / 9),
            "gradient/learner": (7.3125 / 7 + 6.05 / 9) / (1.5 / 7 + 6 / 9 + 7.3125 / 7 + 6.05 / 9),
            "ratio/mean": (16 + 2 * 1.5 + 0.5 + 1.25 + 3 + 4 * 0.5 + 1.1 + 2 * 1.5 + 2 * 2) / 32,
            "ratio/explorer": (6 + 2 * 1.5 + 4 * 0.5) / 12,
            "ratio/learner": (10 + 0.5 + 1.25 + 3 + 1.1 + 2 * 1.5 + 2 * 2) / 20,
        },
    )


def test_groups_and_advantages_of_a_step(tmp_path: Path, stop: StopRequest) -> None:
    _, groups, advantages_PG = step_run(tmp_path, stop).trainer.train_step(1)
    assert [group.prompt.prompt_id for group in groups.own.values()] == [7, 9]
    assert groups.reward_PG.tolist() == [[1, 0, 0, 0], [0, 1, 1, 0]]
    assert groups.source_PG.tolist() == [[Source.EXPLORER, *[Source.LEARNER] * 3]] * 2
    assert [completion.answer for completion in groups.own[1].completions] == ["6", "1", "8", None]
    assert [completion.grader_error for completion in groups.own[1].completions] == [None, None, None, "killed"]
    assert advantages_PG.tolist() == [[0.75, -0.25, -0.25, -0.25], [-0.5, 0.5, 0.5, -0.5]]


def test_who_is_asked_for_what(tmp_path: Path, stop: StopRequest) -> None:
    run = step_run(tmp_path, stop)
    run.trainer.train_step(1)
    ((for_explorer, params),) = run.explorer.asked
    assert params == SAMPLING
    assert for_explorer == [
        SampleRequest(7, 0, (10, 11), explorer_seed(RUN_SEED, 1, 7, 0)),
        SampleRequest(9, 0, (10,), explorer_seed(RUN_SEED, 1, 9, 0)),
    ]
    ((for_learner, params),) = run.learner.asked
    assert params == SAMPLING
    assert [(one.prompt_id, one.sample_id) for one in for_learner] == [(7, 1), (7, 2), (7, 3), (9, 1), (9, 2), (9, 3)]
    assert [one.seed for one in for_learner[::3]] == [sample_seed(RUN_SEED, 1, prompt, 1) for prompt in (7, 9)]
    assert run.grader.items[0] == GradeItem(7, "question 7", "answer 7", "1 4")
    assert len(run.grader.items) == 8


def test_order_of_the_calls_to_the_actor(tmp_path: Path, stop: StopRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    run = step_run(tmp_path, stop)
    monkeypatch.setattr(run.trainer.rollouts, "sleep", lambda: run.actor.calls.append("engines sleep"))
    run.trainer.train_step(1)
    update = ["prepare_for_training_step", "get_loss_and_metrics", "finish_training_step", "optimizer_step"]
    assert run.actor.calls == [
        "release_memory", "engines sleep",
        "prepare_for_inference", "infer", "get_init_policy_logprobs", "finish_inference",
        "prepare_for_training", *update * 4, "finish_training", "export_weights",
    ]  # fmt: skip
    assert run.actor.temperatures == {SAMPLING.temperature}
    assert run.learner.versions == [1]


def test_mini_batches_of_each_pass(tmp_path: Path, stop: StopRequest) -> None:
    run = step_run(tmp_path, stop)
    run.trainer.train_step(1)
    assert [batch.prompt_id_B.tolist() for batch in run.actor.mini_batches] == [[7] * 4, [9] * 4] * 2
    assert run.actor.scales == [LossScale(7, 4, 8), LossScale(9, 4, 8)] * 2
    (batch,) = run.actor.batches
    assert batch.tokens_BT[:2].tolist() == [[10, 11, 1, 4, PAD], [10, 11, 0, PAD, PAD]]
    assert batch.tokens_BT[4].tolist() == [10, 0, 6, 6, 6]
    assert batch.advantages_B.tolist() == [0.75, -0.25, -0.25, -0.25, -0.5, 0.5, 0.5, -0.5]


def test_without_mini_batches_all_prompts_are_one_update(tmp_path: Path, stop: StopRequest) -> None:
    run = step_run(tmp_path, stop, replace(ALGORITHM, mini_batch_prompts=None, optimizer_passes=1))
    metrics, _, _ = run.trainer.train_step(1)
    assert run.actor.scales == [LossScale(16, 8, 8)]
    assert (metrics["lr"], metrics["grad_norm"]) == (0.1, 1.0)


ENTROPY = (2 * 0.5 + 5 * 0.25 + 4 * 0.75 + 5 * 0.125) / 16


def test_a_single_update_computes_its_old_logprobs_itself(tmp_path: Path, stop: StopRequest) -> None:
    run = step_run(tmp_path, stop, replace(ALGORITHM, mini_batch_prompts=None, optimizer_passes=1))
    metrics, _, _ = run.trainer.train_step(1)
    assert "infer" not in run.actor.calls
    (mini_batch,) = run.actor.mini_batches
    assert mini_batch.old_logprobs_BS is None
    assert mini_batch.ref_logprobs_BS is not None
    assert metrics["ratio/mean"] == 1
    assert metrics["entropy"] == pytest.approx(ENTROPY)
    assert metrics["logprob_diff/learner"] == OUTSIDE_THE_LOSS["logprob_diff/learner"]
    assert metrics["kl/explorer"] == pytest.approx((2 * 0.25 + 4 * 0.5) / 6)


def test_of_several_updates_only_the_first_computes_its_own(tmp_path: Path, stop: StopRequest) -> None:
    run = step_run(tmp_path, stop, replace(ALGORITHM, optimizer_passes=1))
    metrics, _, _ = run.trainer.train_step(1)
    (ahead,) = run.actor.batches
    assert ahead.prompt_id_B.tolist() == [9] * 4
    first, second = run.actor.mini_batches
    assert first.old_logprobs_BS is None
    assert second.old_logprobs_BS is not None
    assert second.old_logprobs_BS[:, 3].tolist() == [-2.0, GARBAGE, GARBAGE, GARBAGE]  # only (9, 0) is that long
    assert metrics["entropy"] == pytest.approx(ENTROPY)


def test_nothing_is_computed_ahead_of_a_single_update_without_a_reference(tmp_path: Path, stop: StopRequest) -> None:
    run = step_run(tmp_path, stop, replace(ALGORITHM, mini_batch_prompts=None, optimizer_passes=1, kl_coef=0.0))
    metrics, _, _ = run.trainer.train_step(1)
    assert not {"prepare_for_inference", "infer", "get_init_policy_logprobs"} & {*run.actor.calls}
    assert metrics["time/logprobs"] == 0.0
    assert metrics["entropy"] == pytest.approx(ENTROPY)


DROPPING = replace(ALGORITHM, mini_batch_prompts=None, optimizer_passes=1, kl_coef=0.0, drop_zero_variance=True)


def right_but_for_9(request: SampleRequest) -> Answer:
    """All four answers to prompt 7 are right: its advantages are 0."""
    return Answer((1, 2)) if request.prompt_id == 7 else ANSWERS[9, request.sample_id]


@pytest.mark.parametrize(
    ("micro_batch_size", "prompts_left"), [(1, [9] * 4), (4, [9] * 4), (8, [7] * 4 + [9] * 4)]
)  # a micro-batch of 8 rows needs both groups
def test_groups_without_a_gradient_can_be_left_out(
    tmp_path: Path, stop: StopRequest, micro_batch_size: int, prompts_left: list[int]
) -> None:
    run = make_run(
        tmp_path, stop, DROPPING, train=prompts(7, 9), by_explorer=right_but_for_9, by_learner=right_but_for_9,
        actor=actor(), micro_batch_size=micro_batch_size,
    )  # fmt: skip
    metrics, groups, _ = run.trainer.train_step(1)
    (mini_batch,) = run.actor.mini_batches
    assert mini_batch.prompt_id_B.tolist() == prompts_left
    assert run.actor.scales == [LossScale(8 + 9, 8, 8)]  # the loss is divided as before
    assert metrics["group/dropped"] == (8 - len(prompts_left)) // 4
    assert metrics["group/zero_variance_fraction"] == 0.5
    assert len(groups.own) == 2


def test_leaving_out_changes_no_loss_without_a_kl_penalty(tmp_path: Path, stop: StopRequest) -> None:
    losses = []
    for name, algorithm in (("all", replace(DROPPING, drop_zero_variance=False)), ("some", DROPPING)):
        run = make_run(
            tmp_path / name, stop, algorithm, train=prompts(7, 9), by_explorer=right_but_for_9,
            by_learner=right_but_for_9, actor=actor(),
        )  # fmt: skip
        losses.append(run.trainer.train_step(1)[0]["loss"])
    assert losses[0] == pytest.approx(losses[1])
    assert losses[0] != 0


def test_rows_are_padded_to_a_multiple(tmp_path: Path, stop: StopRequest) -> None:
    run = step_run(tmp_path, stop, sequence_multiple=4)
    run.trainer.train_step(1)
    assert run.actor.batches[0].tokens_BT.shape == (8, 8)


def test_without_a_kl_penalty_the_reference_is_not_asked(tmp_path: Path, stop: StopRequest) -> None:
    run = step_run(tmp_path, stop, replace(ALGORITHM, kl_coef=0.0))
    metrics, _, _ = run.trainer.train_step(1)
    assert "get_init_policy_logprobs" not in run.actor.calls
    assert {key: value for key, value in metrics.items() if key.split("/")[0] == "kl"} == {
        "kl": None, "kl/explorer": None, "kl/learner": None,
    }  # fmt: skip
    assert metrics["time/logprobs"] == 0.125


def test_truncated_answers_can_be_masked(tmp_path: Path, stop: StopRequest) -> None:
    run = step_run(tmp_path, stop, replace(ALGORITHM, mask_truncated=True))
    metrics, _, _ = run.trainer.train_step(1)
    # Without the 3 tokens of (7, 3) and the 4 of (9, 0), which are still counted as rollouts.
    assert run.actor.scales[:2] == [LossScale(4, 3, 8), LossScale(5, 3, 8)]
    assert metrics["clip_fraction"] == 5 / 18
    assert metrics["entropy"] == pytest.approx((2 * 0.5 + 2 * 0.25 + 5 * 0.125) / 9)
    assert metrics["response_length/truncated_fraction"] == 2 / 8
    assert metrics["throughput/rollout_tokens_per_s"] == 16 / 2.0


def test_a_replica_trains_on_its_part_of_every_mini_batch(tmp_path: Path, stop: StopRequest) -> None:
    algorithm = AlgorithmConfig(
        steps=1, prompts_per_step=4, group_size=2, mini_batch_prompts=2, schedule=ScheduleConfig(name="none")
    )
    elsewhere = {"tokens": 5, "sequences": 3, "entropy": 1.0, "entropy_sum": 2.0}

    def job(ranks: ThreadRanks) -> tuple[Run, Metrics, StepGroups, torch.Tensor]:
        script = ScriptedActor(rank=ranks.rank, replicas=2, elsewhere=elsewhere)
        folder = tmp_path / str(ranks.rank)
        run = make_run(folder, stop, algorithm, train=prompts(5, 6, 7, 8), actor=script, ranks=ranks)
        return run, *run.trainer.train_step(1)

    (first, _, first_groups, _), (run, metrics, groups, advantages_PG) = on_all_ranks(job, replica_of=[0, 1])
    assert {p: group.prompt.prompt_id for p, group in groups.own.items()} == {1: 5, 2: 6}
    assert {p: group.prompt.prompt_id for p, group in first_groups.own.items()} == {0: 8, 3: 7}
    assert groups.holder_P == first_groups.holder_P == (0, 1, 1, 0)
    assert groups.length_PG.tolist() == first_groups.length_PG.tolist() == [[2, 2]] * 4
    assert len(run.grader.items) == len(first.grader.items) == 4
    # prompt 7 is a token longer than 6, so it goes to the first replica
    assert [batch.prompt_id_B.tolist() for batch in run.actor.mini_batches] == [[5, 5], [6, 6]]
    # 2 answers of 2 tokens here, 5 tokens of 3 answers there
    assert run.actor.scales == [LossScale(9, 5, 8)] * 2
    # 4 tokens of each mini-batch here: the first gives its entropy with its update, the second ahead of it
    assert metrics["entropy"] == pytest.approx((4 * 0.5 + 2 + 4 * 0.5 + 1) / (4 + 4 + 5))
    assert advantages_PG.shape == (4, 2)


def test_a_replica_takes_the_advantages_of_its_own_groups(tmp_path: Path, stop: StopRequest) -> None:
    algorithm = replace(ALGORITHM, mini_batch_prompts=2, optimizer_passes=1)

    def job(ranks: ThreadRanks) -> Run:
        run = step_run(tmp_path / str(ranks.rank), stop, algorithm, actor(rank=ranks.rank, replicas=2), ranks=ranks)
        run.trainer.train_step(1)
        return run

    _, run = on_all_ranks(job, replica_of=[0, 1])
    # prompt 9 has a token more, so it goes to the first replica
    assert run.actor.mini_batches[0].prompt_id_B.tolist() == [7] * 4
    assert run.actor.mini_batches[0].advantages_B.tolist() == [0.75, -0.25, -0.25, -0.25]


@pytest.mark.parametrize(
    ("changes", "advantages_7"),
    [
        ({"adv_std": AdvantageStd.sample, "adv_eps": 0.5}, [0.75, -0.25, -0.25, -0.25]),  # std is 1/2
        ({"adv_std": AdvantageStd.sample, "adv_eps": 0.0}, [1.5, -0.5, -0.5, -0.5]),
        ({"adv_baseline": Baseline.leave_one_out}, [1.0, -1 / 3, -1 / 3, -1 / 3]),
        ({"adv_norm": AdvantageNorm.split}, [0.0, 0.0, 0.0, 0.0]),  # the explorer's only answer, three equal ones
    ],
)
def test_advantages_follow_their_keys(
    tmp_path: Path, stop: StopRequest, changes: dict[str, Any], advantages_7: list[float]
) -> None:
    _, _, advantages_PG = step_run(tmp_path, stop, replace(ALGORITHM, **changes)).trainer.train_step(1)
    assert advantages_PG[0].tolist() == pytest.approx(advantages_7)


def test_an_answer_of_older_weights_is_refused(tmp_path: Path, stop: StopRequest) -> None:
    run = step_run(tmp_path, stop)
    with pytest.raises(RuntimeError, match="sampled by learner version 0, not by 1"):
        run.trainer.train_step(2)
