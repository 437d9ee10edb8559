"""The figures of one step, from its groups, its `StepSums` and its clock. A figure without a basis is None."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from s2l_nemo.algorithm.advantages import zero_variance_fraction
from s2l_nemo.algorithm.schedule import Outcome, Split
from s2l_nemo.measures.statistics import mean
from s2l_nemo.trainer.clock import Clock
from s2l_nemo.trainer.exchange import StepGroups
from s2l_nemo.trainer.group_sampler import Sampled
from s2l_nemo.trainer.sums import StepSums
from s2l_nemo.types import Source

Metrics = dict[str, float | int | None]


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """The quotient; None if one of the two is None, or the denominator is 0."""
    return numerator / denominator if numerator is not None and denominator else None


def source_masks(groups: StepGroups, explorers: Sequence[str]) -> dict[str, torch.Tensor]:
    """bool [P, G] for learner, explorer, and each name of `explorers`, which has them if there are several."""
    learner_PG = groups.source_PG == Source.LEARNER
    named = {name: groups.source_PG == k for k, name in enumerate(explorers, start=1)}
    return {"learner": learner_PG, "explorer": ~learner_PG, **named}


def rollout_metrics(split: Split, groups: StepGroups, explorers: Sequence[str] = ()) -> Metrics:
    """Rewards, lengths in tokens, and the share of answers cut at the limit: of all completions and by source.

    `reward/answered_fraction` is the share of completions in which the grader has found an answer, right or wrong.
    `group/explorer` and `group/learner` are means over the groups. Completions that the explorer filter left out are
    counted too.
    """
    masks = source_masks(groups, explorers)
    everyone_PG = torch.ones_like(groups.kept_PG)

    def of(figure_PG: torch.Tensor, chosen_PG: torch.Tensor = everyone_PG) -> float | None:
        return mean(figure_PG[chosen_PG].double().tolist())

    metrics: Metrics = {
        "alpha": split.alpha,
        "group/zero_variance_fraction": zero_variance_fraction(groups.reward_PG, groups.kept_PG),
        "group/kept": groups.kept_PG.sum(1).float().mean().item(),
        "reward/mean": of(groups.reward_PG),
        "reward/grader_errors": int(groups.failed_PG.sum().item()),
        "reward/answered_fraction": of(groups.answered_PG),
        "response_length/mean": of(groups.length_PG),
        "response_length/truncated_fraction": of(groups.truncated_PG),
    }
    for name, chosen_PG in masks.items():
        metrics[f"group/{name}"] = chosen_PG.sum(1).double().mean().item()
        metrics[f"reward/{name}"] = of(groups.reward_PG, chosen_PG)
        metrics[f"response_length/{name}"] = of(groups.length_PG, chosen_PG)
        metrics[f"response_length/truncated_fraction_{name}"] = of(groups.truncated_PG, chosen_PG)
    return metrics


def refill_metrics(sampled: Sampled) -> Metrics:
    """`group/zero_variance_first` is the share of groups of equal rewards before any was replaced."""
    return {
        "group/zero_variance_first": sampled.zero_variance,
        "group/refilled": sampled.refilled,
        "group/refill_prompts": sampled.tried,
    }


def outcome_of(sampled: Sampled) -> Outcome:
    """What schedules hear of a step."""
    masks = source_masks(sampled.groups, ())
    rewards = {name: mean(sampled.groups.reward_PG[mask_PG].tolist()) for name, mask_PG in masks.items()}
    return Outcome(rewards["learner"], rewards["explorer"], sampled.zero_variance)


def update_metrics(sums: StepSums) -> Metrics:
    """`loss` and `grad_norm` are means over the updates of the step, None if all were skipped. All others are means
    over tokens, but for `train/skipped`: updates not taken, because loss or gradients were not finite.

    `ratio`, `clip_fraction`, `rejected_fraction`, `kl` and `logprob_diff` count a token once for each pass. Units: nats
    for `kl`, `entropy`, `logprob_diff` and `sampler_kl`, the estimate of KL(sampler || learner before the step).
    `sample_size` is the effective one of the learner's weights on these tokens (`TokenSums`), over their number.
    `gradient` is the part of these tokens in the sum of |d loss / d log-prob| over all tokens.
    """
    metrics: Metrics = {
        "loss": ratio(sums.loss, sums.updates),
        "grad_norm": ratio(sums.grad_norm, sums.updates),
        "train/skipped": sums.skipped,
        "kl": ratio(sums.total.kl, sums.total.tokens),
        "entropy": ratio(sums.entropy, sums.entropy_tokens),
        "clip_fraction": ratio(sums.total.clipped, sums.total.tokens),
        "rejected_fraction": ratio(sums.total.rejected, sums.total.tokens),
        "ratio/mean": ratio(sums.total.ratio, sums.total.tokens),
    }
    for name in dict.fromkeys(("explorer", "learner", *sums.by_source)):
        own = sums.of(name)
        metrics[f"kl/{name}"] = ratio(own.kl, own.tokens)
        metrics[f"clip_fraction/{name}"] = ratio(own.clipped, own.tokens)
        metrics[f"rejected_fraction/{name}"] = ratio(own.rejected, own.tokens)
        metrics[f"ratio/{name}"] = ratio(own.ratio, own.tokens)
        metrics[f"logprob_diff/{name}"] = ratio(own.logprob_diff, own.tokens)
        metrics[f"sample_size/{name}"] = own.sample_size
        metrics[f"sampler_kl/{name}"] = ratio(own.sampler_kl, own.tokens)
        metrics[f"gradient/{name}"] = ratio(own.gradient, sums.total.gradient)
    return metrics


def throughput(clock: Clock, groups: StepGroups, trained_tokens: float) -> Metrics:
    """Response tokens a second, of all ranks together.

    Rollout: the sampled tokens, over the seconds of the rollout phase. Train: `trained_tokens`, which counts a token
    once for each pass, over the seconds of log-probs and updates.
    """
    sampled = int(groups.length_PG.sum().item())
    seconds = clock.seconds
    train = seconds.get("logprobs", 0.0) + seconds.get("update", 0.0)
    return {
        "throughput/rollout_tokens_per_s": ratio(sampled, seconds.get("rollout")),
        "throughput/train_tokens_per_s": ratio(trained_tokens, train),
    }
