"""The figures of one step, from its groups, its `StepSums` and its clock. A figure without a basis is None."""

from __future__ import annotations

import torch

from s2l_nemo.algorithm.advantages import zero_variance_fraction
from s2l_nemo.algorithm.schedule import Split
from s2l_nemo.measures.statistics import mean
from s2l_nemo.trainer.clock import Clock
from s2l_nemo.trainer.exchange import StepGroups
from s2l_nemo.trainer.sums import StepSums
from s2l_nemo.types import Source

Metrics = dict[str, float | int | None]


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """The quotient; None if one of the two is None, or the denominator is 0."""
    return numerator / denominator if numerator is not None and denominator else None


def rollout_metrics(split: Split, groups: StepGroups) -> Metrics:
    """Rewards, lengths in tokens, and the share of answers cut at the limit: of all completions and by source.

    Completions that the explorer filter left out are counted too.
    """
    everyone_PG = torch.ones_like(groups.kept_PG)

    def of(figure_PG: torch.Tensor, chosen_PG: torch.Tensor = everyone_PG) -> float | None:
        return mean(figure_PG[chosen_PG].double().tolist())

    metrics: Metrics = {
        "alpha": split.alpha,
        "group/explorer": split.explorer,
        "group/learner": split.learner,
        "group/zero_variance_fraction": zero_variance_fraction(groups.reward_PG, groups.kept_PG),
        "group/kept": groups.kept_PG.sum(1).float().mean().item(),
        "reward/mean": of(groups.reward_PG),
        "reward/grader_errors": int(groups.failed_PG.sum().item()),
        "response_length/mean": of(groups.length_PG),
        "response_length/truncated_fraction": of(groups.truncated_PG),
    }
    for source in Source:
        name, chosen_PG = source.name.lower(), groups.source_PG == source
        metrics[f"reward/{name}"] = of(groups.reward_PG, chosen_PG)
        metrics[f"response_length/{name}"] = of(groups.length_PG, chosen_PG)
        metrics[f"response_length/truncated_fraction_{name}"] = of(groups.truncated_PG, chosen_PG)
    return metrics


def update_metrics(sums: StepSums) -> Metrics:
    """`loss` and `grad_norm` are means over the updates of the step. All others are means over tokens.

    `ratio`, `clip_fraction`, `kl` and `logprob_diff` count a token once for each pass. Units: nats for `kl`, `entropy`
    and `logprob_diff`.
    """
    metrics: Metrics = {
        "loss": sums.loss / sums.updates,
        "grad_norm": sums.grad_norm / sums.updates,
        "kl": ratio(sums.total.kl, sums.total.tokens),
        "entropy": ratio(sums.entropy, sums.entropy_tokens),
        "clip_fraction": ratio(sums.total.clipped, sums.total.tokens),
        "ratio/mean": ratio(sums.total.ratio, sums.total.tokens),
    }
    for source in (Source.EXPLORER, Source.LEARNER):
        name, own = source.name.lower(), sums.by_source[source]
        metrics[f"kl/{name}"] = ratio(own.kl, own.tokens)
        metrics[f"clip_fraction/{name}"] = ratio(own.clipped, own.tokens)
        metrics[f"ratio/{name}"] = ratio(own.ratio, own.tokens)
        metrics[f"logprob_diff/{name}"] = ratio(own.logprob_diff, own.tokens)
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
