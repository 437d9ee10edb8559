"""Draws tokens from logits with one counter-based random number per (seed, position): no generator state to carry."""

from __future__ import annotations

import torch

from s2l_nemo.splitmix import GAMMA, mixed, shifted
from s2l_nemo.types import SamplingParams

_BLOCK = 256  # tokens whose probabilities are added up at once


def uniforms(seeds_B: torch.Tensor, positions_B: torch.Tensor) -> torch.Tensor:
    """float64 [B] in [0, 1), a pure function of each (seed, position); both arguments are int64 [B]."""
    bits_B = mixed(mixed(seeds_B) + (positions_B + 1) * GAMMA)
    return shifted(bits_B, 11).double() * 2.0**-53


def sampling_logits(logits_BV: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """float32 [B, V]: the logits of the sampling distribution; -inf for tokens that top-k or top-p leave out.

    Temperature comes first, then top-k (equal logits at the border all stay), then the smallest set of most likely
    tokens whose probability reaches top-p. At temperature 0 the distribution is that of the unscaled logits.
    """
    logits_BV = logits_BV.float()
    if params.temperature == 0:
        return logits_BV
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
    return logits_BV


def sampling_logprobs(logits_BV: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """float32 [B, V]: the log-probabilities of the sampling distribution; see `sampling_logits`."""
    return torch.log_softmax(sampling_logits(logits_BV, params), dim=-1)


def draw_tokens(logits_BV: torch.Tensor, uniform_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first token of each row whose cumulative probability exceeds its number, and its log-probability."""
    if logits_BV.device.type != "cpu":
        tokens_B = _invert_cdf(logits_BV.softmax(dim=-1), uniform_B)
        return tokens_B, _of_tokens(logits_BV, tokens_B)
    from s2l_nemo.engines.embedded import compiled, kernels  # compiles them, which only a CPU needs

    compiled.share_threads()
    tokens_B = torch.empty(len(uniform_B), dtype=torch.long)
    logprobs_B = torch.empty(len(uniform_B))
    logits, top = logits_BV.contiguous().numpy(), logits_BV.amax(dim=1).numpy()
    kernels.draw(logits, top, uniform_B.numpy(), tokens_B.numpy(), logprobs_B.numpy())
    return tokens_B, logprobs_B


def _invert_cdf(probs_BV: torch.Tensor, uniform_B: torch.Tensor) -> torch.Tensor:
    """int64 [B]: the first token whose cumulative probability exceeds the row's number times the sum of all.

    In float64, so that the order in which a device adds up a large vocabulary does not matter; in blocks, because one
    sum over all of them takes a CPU as long as a small model's layers.
    """
    vocabulary = probs_BV.size(1)
    probs_BKC = torch.nn.functional.pad(probs_BV, (0, -vocabulary % _BLOCK)).unflatten(1, (-1, _BLOCK))
    ends_BK = probs_BKC.sum(dim=2, dtype=torch.float64).cumsum(dim=1)
    thresholds_B1 = _below(ends_BK, uniform_B[:, None] * ends_BK[:, -1:])
    block_B1 = torch.searchsorted(ends_BK, thresholds_B1, right=True)
    before_B1 = torch.where(block_B1 > 0, ends_BK.gather(1, (block_B1 - 1).clamp(min=0)), 0.0)
    block_BC = probs_BKC.gather(1, block_B1[:, :, None].expand(-1, -1, _BLOCK))[:, 0]
    cdf_BC = block_BC.cumsum(dim=1, dtype=torch.float64)
    rest_B1 = _below(cdf_BC, thresholds_B1 - before_B1)  # sums in two orders may differ in the last bit
    return (block_B1 * _BLOCK + torch.searchsorted(cdf_BC, rest_B1, right=True)).squeeze(1)


def _below(cdf_BN: torch.Tensor, threshold_B1: torch.Tensor) -> torch.Tensor:
    """The thresholds, below the last sum: so there is always a token past one, and its probability is not 0."""
    return torch.minimum(threshold_B1, torch.nextafter(cdf_BN[:, -1:], cdf_BN.new_zeros(())))


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
    kept_BV = sampling_logits(logits_BV, params)
    if params.temperature == 0:
        tokens_B = kept_BV.argmax(dim=-1)
        logprobs_B = _of_tokens(kept_BV, tokens_B)
    else:
        tokens_B, logprobs_B = draw_tokens(kept_BV, uniforms(seeds_B, positions_B))
    if seen_BV is not None:
        seen_BV.scatter_(1, tokens_B[:, None], True)
    return tokens_B, logprobs_B


def _of_tokens(logits_BV: torch.Tensor, tokens_B: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(logits_BV, dim=-1).gather(1, tokens_B[:, None]).squeeze(-1)
