"""The figures of one step, from its groups, the sums of the loss and the clock. A figure without a basis is None."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from s2l_nemo.algorithm.advantages import zero_variance_fraction
from s2l_nemo.algorithm.schedule import Split
from s2l_nemo.trainer.clock import Clock
from s2l_nemo.types import Completion, Group, Source

Metrics = dict[str, float | int | None]


def mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    return numerator / denominator if numerator is not None and denominator else None


def rollout_metrics(split: Split, groups: Sequence[Group]) -> Metrics:
    """Rewards, lengths (tokens) and truncation, for all completions and by source."""
    completions = [completion for group in groups for completion in group.completions]
    by_source = {source: [c for c in completions if c.source == source] for source in Source}
    rewards_PG = torch.tensor([group.rewards_G() for group in groups])
    kept_PG = torch.tensor([group.kept_G() for group in groups])

    def of(figure: Callable[[Completion], float], chosen: Sequence[Completion]) -> float | None:
        return mean([figure(completion) for completion in chosen])

    def reward(completion: Completion) -> float:
        return completion.reward or 0.0

    def length(completion: Completion) -> float:
        return float(len(completion.token_ids))

    def truncated(completion: Completion) -> float:
        return float(completion.finish_reason == "length")

    metrics: Metrics = {
        "alpha": split.alpha,
        "group/explorer": split.explorer,
        "group/learner": split.learner,
        "group/zero_variance_fraction": zero_variance_fraction(rewards_PG, kept_PG),
        "group/kept": kept_PG.sum(1).float().mean().item(),
        "reward/mean": of(reward, completions),
        "reward/grader_errors": sum(completion.grader_error is not None for completion in completions),
        "response_length/mean": of(length, completions),
        "response_length/truncated_fraction": of(truncated, completions),
    }
    for source, chosen in by_source.items():
        name = source.name.lower()
        metrics[f"reward/{name}"] = of(reward, chosen)
        metrics[f"response_length/{name}"] = of(length, chosen)
        metrics[f"response_length/truncated_fraction_{name}"] = of(truncated, chosen)
    return metrics


def update_metrics(sums: dict[str, float], updates: float) -> Metrics:
    """Means over the tokens of all optimizer steps of this step; `loss` and `grad_norm` are means over them.

    `sums` are those of `PolicyLoss` over the step, with `loss_sum`, `grad_norm`, and `entropy_sum`/`entropy_tokens`.
    """
    tokens = sums["tokens"]
    metrics: Metrics = {
        "loss": sums["loss_sum"] / updates,
        "grad_norm": sums["grad_norm"] / updates,
        "kl": ratio(sums.get("kl_sum"), tokens),
        "entropy": ratio(sums["entropy_sum"], sums["entropy_tokens"]),
        "clip_fraction": ratio(sums["clipped"], tokens),
        "ratio/mean": ratio(sums["ratio_sum"], tokens),
    }
    for source in ("explorer", "learner"):
        own = sums[f"tokens_{source}"]
        metrics[f"kl/{source}"] = ratio(sums.get(f"kl_sum_{source}"), own)
        metrics[f"clip_fraction/{source}"] = ratio(sums[f"clipped_{source}"], own)
        metrics[f"ratio/{source}"] = ratio(sums[f"ratio_sum_{source}"], own)
        metrics[f"logprob_diff/{source}"] = ratio(sums[f"logprob_diff_sum_{source}"], own)
    return metrics


def throughput(clock: Clock, groups: Sequence[Group], trained_tokens: float) -> Metrics:
    """Response tokens a second of the rollout phases, and of log-probs and updates, all ranks together."""
    sampled = sum(len(completion.token_ids) for group in groups for completion in group.completions)
    seconds = clock.seconds
    train = seconds.get("logprobs", 0.0) + seconds.get("update", 0.0)
    return {
        "throughput/rollout_tokens_per_s": ratio(sampled, seconds.get("rollout")),
        "throughput/train_tokens_per_s": ratio(trained_tokens, train),
    }
