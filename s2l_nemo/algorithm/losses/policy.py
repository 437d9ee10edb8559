"""The policy loss of mixed groups: Eq. 2 of the paper, with the choices that GRPO's relatives add.

Everything is a function of per-token log-probs. Padded positions are exactly 0 in the value and in the gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from s2l_nemo.algorithm.batching import mini_batch_counts
from s2l_nemo.algorithm.losses.aggregation import Aggregation, LossScale
from s2l_nemo.algorithm.losses.importance.rule import Importance, ImportanceRule, RuleInput, clipped, ratio
from s2l_nemo.algorithm.losses.kl import kl_penalty
from s2l_nemo.algorithm.options import AGGREGATIONS, IMPORTANCE, AlgorithmConfig, KLEstimator, Rejected, made
from s2l_nemo.types import Source, TrainBatch


@dataclass(frozen=True)
class PolicyLoss:
    """The loss of one run. The fields have the meanings of the keys of `algorithm` with their names."""

    importance: ImportanceRule
    clip_low: float | None
    clip_high: float | None
    dual_clip: float | None
    kl_coef: float
    kl_estimator: KLEstimator
    kl_clamp: float | None
    kl_on_explorer: bool
    entropy_coef: float
    explorer_loss_coef: float
    aggregate: Aggregation
    rejected: Rejected
    explorers: tuple[str, ...] = ()  # their names if there are several

    @classmethod
    def of(cls, options: AlgorithmConfig, explorers: Sequence[str] = ()) -> PolicyLoss:
        """The loss that the keys of `algorithm` ask for. Raises UserError for a rule that nobody has registered.

        `explorers` are their names, in the order of their sources, if there are several.
        """
        return cls(
            importance=made(IMPORTANCE[options.importance], options),
            clip_low=options.clip_low,
            clip_high=options.clip_high,
            dual_clip=options.dual_clip,
            kl_coef=options.kl_coef,
            kl_estimator=options.kl_estimator,
            kl_clamp=options.kl_clamp,
            kl_on_explorer=options.kl_on_explorer,
            entropy_coef=options.entropy_coef,
            explorer_loss_coef=options.explorer_loss_coef,
            aggregate=AGGREGATIONS[options.aggregation],
            rejected=options.rejected,
            explorers=tuple(explorers),
        )

    def __call__(
        self, logprobs_BS: torch.Tensor, batch: TrainBatch, scale: LossScale, entropy_BS: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Returns this micro-batch's share of the mini-batch loss, and detached sums for the metrics.

        `logprobs_BS` are those of the policy that learns. If `batch` carries no `old_logprobs_BS`, nothing has been
        updated yet in this step, and they are the old ones too. It must carry `ref_logprobs_BS` unless `kl_coef` is 0.
        `entropy_BS` (nats, with a gradient) is needed only if `entropy_coef` is not 0.

        The sums (float64 scalars) can be added over micro-batches and ranks: `tokens`, `clipped` (tokens whose ratio a
        clip stopped), `rejected` (tokens that the rule did not accept), `ratio_sum`, `logprob_diff_sum`
        (|old - sampler|), those of `_importance_sums`, `kl_sum` if there is a reference, and `gradient_sum`
        (|d loss / d log-prob|) if `logprobs_BS` have a gradient. Each comes also with the suffix `_learner` and
        `_explorer`, and with the name of each explorer if there are several. Divide by `tokens` of the same suffix.
        """
        old_BS = logprobs_BS.detach() if batch.old_logprobs_BS is None else batch.old_logprobs_BS
        tokens = rule_input(logprobs_BS, old_BS, batch)
        found = self.importance(tokens)
        objective_BS, clipped_BS = self.clipped_surrogate(found.ratio_BS, tokens.advantages_B1, found.unclipped_BS)
        coef_BS = torch.where(tokens.explorer_BS, self.explorer_loss_coef, 1.0)
        counted_BS = self._counted(tokens, found)
        losses_BS = torch.where(found.accepted_BS, -coef_BS * found.weight_BS * objective_BS, 0.0)
        per_token = {
            "tokens": batch.mask_BS,
            "clipped": tokens.response_BS & clipped_BS,
            "rejected": tokens.response_BS & ~found.accepted_BS,
            "ratio_sum": tokens.on_response(found.ratio_BS),
            "logprob_diff_sum": (tokens.old_BS - tokens.sampler_BS).abs(),
            **_importance_sums(tokens.old_BS.detach(), tokens.sampler_BS, batch.mask_BS),
        }
        if batch.ref_logprobs_BS is not None:
            ref_BS = tokens.on_response(batch.ref_logprobs_BS)
            kl_BS = kl_penalty(tokens.policy_BS, ref_BS, self.kl_estimator, self.kl_clamp)
            penalised_BS = kl_BS if self.kl_on_explorer else kl_BS.masked_fill(tokens.explorer_BS, 0.0)
            losses_BS = losses_BS + self.kl_coef * penalised_BS
            per_token["kl_sum"] = kl_BS
        else:
            assert self.kl_coef == 0, "a KL penalty needs reference log-probs"
        if self.entropy_coef:
            assert entropy_BS is not None, "an entropy bonus needs the entropy"
            losses_BS = losses_BS - self.entropy_coef * tokens.on_response(entropy_BS)
        loss = self.aggregate(torch.where(counted_BS, losses_BS, 0.0), counted_BS.float(), scale)
        if logprobs_BS.requires_grad:  # the graph goes no further than to the log-probs
            (gradient_BS,) = torch.autograd.grad(loss, logprobs_BS, retain_graph=True)
            per_token["gradient_sum"] = gradient_BS.abs()
        return loss, _sums_by_source(per_token, self._source_masks(batch.source_B))

    def _source_masks(self, source_B: torch.Tensor) -> dict[str, torch.Tensor]:
        """bool [B, 1] for each name that sums have."""
        explorer_B1 = (source_B != Source.LEARNER).unsqueeze(1)
        named = {name: (source_B == k).unsqueeze(1) for k, name in enumerate(self.explorers, start=1)}
        return {"explorer": explorer_B1, "learner": ~explorer_B1, **named}

    def counts(self, batch: TrainBatch) -> tuple[int, int]:
        """The tokens that the loss is divided by, and sequences with at least one. Sums over ranks make a `LossScale`.

        They are all response tokens, or with `rejected=drop` those that the rule accepts. Then `batch` must carry old
        log-probs: which tokens are accepted has to be known before the first update.
        """
        if self.rejected is Rejected.keep:
            return mini_batch_counts(batch)
        assert batch.old_logprobs_BS is not None, "what a rule rejects depends on old log-probs"
        tokens = rule_input(batch.old_logprobs_BS, batch.old_logprobs_BS, batch)
        counted_BS = self._counted(tokens, self.importance(tokens))
        return int(counted_BS.sum().item()), int(counted_BS.any(1).sum().item())

    def _counted(self, tokens: RuleInput, found: Importance) -> torch.Tensor:
        """bool: the tokens that enter the loss, their KL term too, and are counted in its division."""
        return tokens.response_BS & found.accepted_BS if self.rejected is Rejected.drop else tokens.response_BS

    def clipped_surrogate(
        self, ratio_BS: torch.Tensor, advantages_B1: torch.Tensor, unclipped_BS: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the objective, which is to be maximised, and the tokens at which a clip decided it (bool).

        The objective is min(r A, clip(r, 1 - low, 1 + high) A), without a bound that is null. If A < 0, dual clip
        bounds it from below by c A (arXiv 1912.09729, Eq. 5).
        """
        plain_BS = ratio_BS * advantages_B1
        clamped_BS = clipped(ratio_BS, self.clip_low, self.clip_high)
        objective_BS = torch.minimum(plain_BS, clamped_BS * advantages_B1)
        if self.dual_clip is not None:
            bounded_BS = torch.maximum(objective_BS, self.dual_clip * advantages_B1)
            objective_BS = torch.where(advantages_B1 < 0, bounded_BS, objective_BS)
        objective_BS = torch.where(unclipped_BS, plain_BS, objective_BS)
        return objective_BS, (objective_BS != plain_BS).detach()


def rule_input(logprobs_BS: torch.Tensor, old_BS: torch.Tensor, batch: TrainBatch) -> RuleInput:
    """What a rule sees of a batch, for a policy with these log-probs."""
    response_BS = batch.mask_BS.bool()
    # Before any arithmetic: what stands at padded positions may be anything, and inf * 0 is nan.
    policy_BS, old_BS, sampler_BS = (
        torch.where(response_BS, values_BS.float(), 0.0)
        for values_BS in (logprobs_BS, old_BS, batch.sampler_logprobs_BS)
    )
    return RuleInput(
        policy_BS,
        old_BS,
        sampler_BS,
        response_BS & (batch.source_B != Source.LEARNER).unsqueeze(1),
        response_BS,
        batch.advantages_B.unsqueeze(1),
        batch.tokens_BT[:, 1:],
        batch.prompt_id_B.unsqueeze(1),
        batch.sample_id_B.unsqueeze(1),
        None if batch.group_logprob_B is None else batch.group_logprob_B.unsqueeze(1),
    )


def _importance_sums(old_BS: torch.Tensor, sampler_BS: torch.Tensor, mask_BS: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of w = pi_old / pi_sampler: w, its square, and log(1 / w), whose mean estimates KL(sampler || old)."""
    weight_BS = ratio(old_BS, sampler_BS).double() * mask_BS
    return {"weight_sum": weight_BS, "weight_square_sum": weight_BS.square(), "sampler_kl_sum": sampler_BS - old_BS}


def _sums_by_source(
    per_token: Mapping[str, torch.Tensor], masks: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    sums = {}
    for name, values_BS in per_token.items():
        values_BS = values_BS.detach().double()
        sums[name] = values_BS.sum()
        for source, mask_B1 in masks.items():
            sums[f"{name}_{source}"] = (values_BS * mask_B1).sum()
    return sums
