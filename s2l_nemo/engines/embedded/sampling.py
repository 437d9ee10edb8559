"""Draws tokens from logits with one counter-based random number per (seed, position): no generator state to carry."""

from __future__ import annotations

import torch

from s2l_nemo.types import SamplingParams

# SplitMix64: Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014. Written as signed
# 64-bit integers, whose products wrap in torch as unsigned ones do.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def _xor_shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    # `>>` of a signed integer copies the sign bit; the mask takes the copies away.
    return x ^ ((x >> bits) & ((1 << (64 - bits)) - 1))


def _mix(x: torch.Tensor) -> torch.Tensor:
    x = _xor_shift_right(x, 30) * _MIX_1
    x = _xor_shift_right(x, 27) * _MIX_2
    return _xor_shift_right(x, 31)


def uniforms(seeds_B: torch.Tensor, positions_B: torch.Tensor) -> torch.Tensor:
    """float64 [B] in [0, 1), a pure function of each (seed, position); both arguments are int64 [B]."""
    bits_B = _mix(_mix(seeds_B) + (positions_B + 1) * _GAMMA)
    return ((bits_B >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


def sampling_logprobs(logits_BV: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """float32 [B, V] log-probabilities of the sampling distribution; -inf for tokens that top-k or top-p leave out.

    Temperature comes first, then top-k (equal logits at the border all stay), then the smallest set of most likely
    tokens whose probability reaches top-p. At temperature 0 the distribution is that of the unscaled logits.
    """
    logits_BV = logits_BV.float()
    if params.temperature == 0:
        return torch.log_softmax(logits_BV, dim=-1)
    if params.temperature != 1:
        logits_BV = logits_BV / params.temperature
    if 0 < params.top_k < logits_BV.size(-1):
        kth_B1 = logits_BV.topk(params.top_k, dim=-1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < kth_B1, -torch.inf)
    if params.top_p < 1:
        sorted_BV, order_BV = logits_BV.sort(dim=-1, descending=True, stable=True)
        probs_BV = sorted_BV.softmax(dim=-1)
        outside_BV = probs_BV.cumsum(dim=-1) - probs_BV >= params.top_p
        outside_BV[:, 0] = False
        logits_BV = logits_BV.masked_fill(outside_BV.scatter(1, order_BV, outside_BV), -torch.inf)
    return torch.log_softmax(logits_BV, dim=-1)


def sample_tokens(
    logits_BV: torch.Tensor,
    seeds_B: torch.Tensor,
    positions_B: torch.Tensor,
    params: SamplingParams,
    seen_BV: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token per row and its log-probability: (int64 [B], float32 [B]).

    `positions_B` counts the tokens that the row has generated before. The token is the first whose cumulative
    probability exceeds the row's uniform number, so it depends on nothing but the row's seed, position and logits.

    `seen_BV`, bool, marks the tokens that the row has generated. It is updated in place, and None if there is no
    presence penalty. A marked token pays the penalty once, however often it came (OpenAI's definition, which vLLM
    follows).
    """
    if seen_BV is not None:
        logits_BV = logits_BV.float() - params.presence_penalty * seen_BV
    logprobs_BV = sampling_logprobs(logits_BV, params)
    if params.temperature == 0:
        tokens_B = logits_BV.float().argmax(dim=-1)
    else:
        # float64, so that the order in which a device adds up a large vocabulary does not matter.
        cdf_BV = logprobs_BV.exp().cumsum(dim=-1, dtype=torch.float64)
        thresholds_B1 = uniforms(seeds_B, positions_B)[:, None] * cdf_BV[:, -1:]
        tokens_B = torch.searchsorted(cdf_BV, thresholds_B1, right=True).squeeze(-1)
    if seen_BV is not None:
        seen_BV.scatter_(1, tokens_B[:, None], True)
    return tokens_B, logprobs_BV.gather(1, tokens_B[:, None]).squeeze(-1)
