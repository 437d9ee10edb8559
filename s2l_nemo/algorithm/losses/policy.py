"""The policy loss of mixed groups: Eq. 2 of the paper, with the choices that GRPO's relatives add.

Everything is a function of per-token log-probs. Padded positions are exactly 0 in the value and in the gradient.
Sums are divided by counts of the whole mini-batch, so adding up micro-batches and data-parallel ranks gives the loss
of the mini-batch, however it was divided.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from s2l_nemo.config.schema import AlgorithmConfig
from s2l_nemo.types import Source, TrainBatch

# exp(20) is 5e8: far outside every trust region, and still finite in float32 when squared or summed.
MAX_LOG_RATIO = 20.0


@dataclass(frozen=True)
class LossParams:
    """The keys of `algorithm` that the loss reads; meanings and defaults as in `AlgorithmConfig`."""

    importance: str = "learner_old"
    importance_cap: float = 2.0
    importance_floor: float = 0.5
    shaping_gamma: float = 0.1
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    kl_coef: float = 1e-3
    kl_estimator: str = "k3"
    kl_on_explorer: bool = True
    explorer_loss_coef: float = 1.0
    aggregation: str = "token_mean"

    @classmethod
    def from_config(cls, algorithm: AlgorithmConfig) -> LossParams:
        return cls(**{name: getattr(algorithm, name) for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class LossScale:
    """Counts of the whole mini-batch, over all data-parallel ranks and micro-batches."""

    tokens: int  # response tokens
    sequences: int  # sequences with at least one response token
    max_response_length: int  # tokens; the constant of Dr.GRPO


def policy_loss(
    logprobs_BS: torch.Tensor, batch: TrainBatch, params: LossParams, scale: LossScale
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Returns this micro-batch's share of the mini-batch loss, and detached sums for the metrics.

    `logprobs_BS` are those of the policy that learns; `batch` must carry `old_logprobs_BS`, and `ref_logprobs_BS`
    unless `kl_coef` is 0. The sums (float64 scalars) can be added over micro-batches and ranks: `tokens`, `clipped`
    (tokens whose ratio a clip stopped), `ratio_sum`, `logprob_diff_sum` (|old - sampler|), `kl_sum` where a
    reference is there, each also with the suffix `_learner` and `_explorer`. Divide by `tokens` of the same suffix.
    """
    assert batch.old_logprobs_BS is not None, "old log-probs are computed before the first update of a step"
    response_BS = batch.mask_BS.bool()

    # Before any arithmetic: what stands at padded positions may be anything, and inf * 0 is nan.
    def on_response(values_BS: torch.Tensor) -> torch.Tensor:
        return torch.where(response_BS, values_BS.float(), 0.0)

    logprobs_BS = on_response(logprobs_BS)
    old_BS = on_response(batch.old_logprobs_BS)
    sampler_BS = on_response(batch.sampler_logprobs_BS)
    explorer_BS = response_BS & (batch.source_B == Source.EXPLORER).unsqueeze(1)

    ratio_BS, weight_BS, unclipped_BS = importance_ratio(logprobs_BS, old_BS, sampler_BS, explorer_BS, params)
    objective_BS, clipped_BS = clipped_surrogate(ratio_BS, batch.advantages_B.unsqueeze(1), unclipped_BS, params)
    coef_BS = torch.where(explorer_BS, params.explorer_loss_coef, 1.0)
    losses_BS = -coef_BS * weight_BS * objective_BS
    per_token = {
        "tokens": batch.mask_BS,
        "clipped": clipped_BS,
        "ratio_sum": on_response(ratio_BS),
        "logprob_diff_sum": (old_BS - sampler_BS).abs(),
    }
    if batch.ref_logprobs_BS is not None:
        kl_BS = kl_penalty(logprobs_BS, on_response(batch.ref_logprobs_BS), params.kl_estimator)
        counted_BS = kl_BS if params.kl_on_explorer else kl_BS.masked_fill(explorer_BS, 0.0)
        losses_BS = losses_BS + params.kl_coef * counted_BS
        per_token["kl_sum"] = kl_BS
    else:
        assert params.kl_coef == 0, "a KL penalty needs reference log-probs"
    loss = aggregate(on_response(losses_BS), batch.mask_BS, params.aggregation, scale)
    return loss, _sums_by_source(per_token, explorer_BS)


def importance_ratio(
    logprobs_BS: torch.Tensor,
    old_BS: torch.Tensor,
    sampler_BS: torch.Tensor,
    explorer_BS: torch.Tensor,
    params: LossParams,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns (ratio_BS, weight_BS, unclipped_BS): the ratio that carries the gradient, the detached factor of the
    surrogate, and the tokens on which the ratio must not be clipped.

    `learner_old`: ratio pi/pi_old, whoever sampled the token (the released code).
    `behavior`: ratio pi/pi_sampler (Eq. 2).
    `truncated`: ratio pi/pi_old, weight min(pi_old/pi_sampler, cap) (truncated importance sampling).
    `masked`: the same weight, but 0 outside floor..cap.
    `shaped`: f(x) = x/(x + gamma) of x = pi/pi_sampler on explorer tokens, never clipped (LUFFY, arXiv 2504.14945);
    `learner_old` on the others.
    """
    weight_BS = torch.ones_like(logprobs_BS)
    unclipped_BS = torch.zeros_like(explorer_BS)
    ratio_BS = _ratio(logprobs_BS, sampler_BS if params.importance == "behavior" else old_BS)
    if params.importance in ("truncated", "masked"):
        correction_BS = _ratio(old_BS, sampler_BS).detach()
        inside_BS = (correction_BS >= params.importance_floor) & (correction_BS <= params.importance_cap)
        truncated_BS = correction_BS.clamp(max=params.importance_cap)
        weight_BS = truncated_BS if params.importance == "truncated" else correction_BS * inside_BS
    elif params.importance == "shaped":
        sampled_BS = _ratio(logprobs_BS, sampler_BS)
        ratio_BS = torch.where(explorer_BS, sampled_BS / (sampled_BS + params.shaping_gamma), ratio_BS)
        unclipped_BS = explorer_BS
    return ratio_BS, weight_BS, unclipped_BS


def clipped_surrogate(
    ratio_BS: torch.Tensor, advantages_B1: torch.Tensor, unclipped_BS: torch.Tensor, params: LossParams
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (objective_BS, clipped_BS): min(r A, clip(r, 1 - low, 1 + high) A), to be maximised, and where a clip
    decided. Dual clip bounds it from below by c A where A < 0 (arXiv 1912.09729, Eq. 5)."""
    plain_BS = ratio_BS * advantages_B1
    objective_BS = torch.minimum(plain_BS, ratio_BS.clamp(1 - params.clip_low, 1 + params.clip_high) * advantages_B1)
    if params.dual_clip is not None:
        bounded_BS = torch.maximum(objective_BS, params.dual_clip * advantages_B1)
        objective_BS = torch.where(advantages_B1 < 0, bounded_BS, objective_BS)
    objective_BS = torch.where(unclipped_BS, plain_BS, objective_BS)
    return objective_BS, (objective_BS != plain_BS).detach()


def kl_penalty(logprobs_BS: torch.Tensor, ref_BS: torch.Tensor, estimator: str) -> torch.Tensor:
    """Per-token estimate of KL(pi || pi_ref) in nats.

    With d = log pi_ref - log pi: k1 = -d, k2 = d^2 / 2, k3 = exp(d) - d - 1. k3 is the low-variance one
    of the paper (Appendix C); http://joschu.net/blog/kl-approx.html.
    """
    difference_BS = ref_BS - logprobs_BS
    if estimator == "k1":
        return -difference_BS
    if estimator == "k2":
        return difference_BS.square() / 2
    return _ratio(ref_BS, logprobs_BS) - difference_BS - 1


def aggregate(losses_BS: torch.Tensor, mask_BS: torch.Tensor, aggregation: str, scale: LossScale) -> torch.Tensor:
    """Sum of the losses over the mini-batch's count of tokens (`token_mean`), of sequences after a mean within each
    (`sequence_mean`), or of sequences times the response limit (`constant`, Dr.GRPO, arXiv 2503.20783)."""
    # A mini-batch in which every answer was cut and masked has no tokens: its loss is 0, not nan.
    if aggregation == "token_mean":
        return losses_BS.sum() / max(scale.tokens, 1)
    if aggregation == "sequence_mean":
        return (losses_BS.sum(1) / mask_BS.sum(1).clamp(min=1)).sum() / max(scale.sequences, 1)
    return losses_BS.sum() / (max(scale.sequences, 1) * scale.max_response_length)


def _ratio(numerator_BS: torch.Tensor, denominator_BS: torch.Tensor) -> torch.Tensor:
    return (numerator_BS - denominator_BS).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def _sums_by_source(per_token: dict[str, torch.Tensor], explorer_BS: torch.Tensor) -> dict[str, torch.Tensor]:
    sums = {}
    for name, values_BS in per_token.items():
        values_BS = values_BS.detach().double()
        sums[name] = values_BS.sum()
        sums[f"{name}_explorer"] = (values_BS * explorer_BS).sum()
        sums[f"{name}_learner"] = (values_BS * ~explorer_BS).sum()
    return sums
