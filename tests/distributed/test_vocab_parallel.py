"""Log-probs in chunks against torch's log_softmax of all logits: values, entropy and gradients, whole and cut."""

from __future__ import annotations

import pytest
import torch

from s2l_nemo.config.schema import ModelConfig
from s2l_nemo.planner.memory import LOGITS_OF_A_CHUNK
from tests.distributed.ranks import run_ranks

M, H, V, TEMPERATURE = 37, 8, 24, 0.7


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, weights, targets, and the factors of log-probs and entropies whose gradient is taken."""
    generator = torch.Generator().manual_seed(2)
    hidden_MH, weight_VH = (torch.randn(rows, H, generator=generator) for rows in (M, V))
    target_M = torch.randint(0, V, (M,), generator=generator)
    return hidden_MH, weight_VH, target_M, torch.randn(2, M, generator=generator)


Gradients = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def chunked(tp: int, elements: int) -> list[Gradients]:
    """[2, M], and the gradients of hidden states and weights, of a weighted sum of log-probs and entropies.

    Once without a gradient of the entropies, and once with it.
    """
    from megatron.core import parallel_state

    from s2l_nemo.actor import vocab_parallel
    from s2l_nemo.actor.build import init_process_groups

    init_process_groups(ModelConfig(tensor_model_parallel_size=tp), timeout_s=1800)
    vocab_parallel.CHUNK_ELEMENTS = elements
    results = []
    for entropy_gradient in (False, True):
        hidden_MH, weight_VH, target_M, factors_2M = inputs()
        own_VH = weight_VH.chunk(tp)[parallel_state.get_tensor_model_parallel_rank()].clone()
        for tensor in (hidden_MH, own_VH):
            tensor.requires_grad_()
        figures_2M = vocab_parallel.target_logprobs(
            hidden_MH, own_VH, target_M, TEMPERATURE, entropy_gradient=entropy_gradient
        )
        (figures_2M * factors_2M).sum().backward()
        assert hidden_MH.grad is not None
        assert own_VH.grad is not None
        torch.distributed.all_reduce(hidden_MH.grad, group=parallel_state.get_tensor_model_parallel_group())
        results.append((figures_2M.detach(), hidden_MH.grad, own_VH.grad))
    return results


def whole(entropy_gradient: bool) -> Gradients:
    """The same by torch."""
    hidden_MH, weight_VH, target_M, factors_2M = inputs()
    hidden_MH.requires_grad_()
    weight_VH.requires_grad_()
    logprobs_MV = ((hidden_MH @ weight_VH.t()) / TEMPERATURE).log_softmax(-1)
    entropy_M = -(logprobs_MV.exp() * logprobs_MV).sum(-1)
    figures_2M = torch.stack([logprobs_MV.gather(1, target_M[:, None])[:, 0], entropy_M])
    factors_2M[1] *= entropy_gradient
    (figures_2M * factors_2M).sum().backward()
    assert hidden_MH.grad is not None
    assert weight_VH.grad is not None
    return figures_2M.detach(), hidden_MH.grad, weight_VH.grad


@pytest.mark.parametrize("elements", [1, 5 * V, 2**24])  # one target at a time, a few, all
@pytest.mark.parametrize("tp", [1, 2])
def test_chunks_equal_the_whole(tp: int, elements: int) -> None:
    ranks = run_ranks(chunked, tp, tp, elements)
    for entropy_gradient in (False, True):
        wanted_2M, wanted_hidden_MH, wanted_VH = whole(entropy_gradient)
        found = [results[entropy_gradient] for results in ranks]
        for figures_2M, grad_hidden_MH, _ in found:
            assert (figures_2M - wanted_2M).abs().max() < 1e-5
            assert off(grad_hidden_MH, wanted_hidden_MH) < 1e-6
        assert off(torch.cat([grad_VH for _, _, grad_VH in found]), wanted_VH) < 1e-6


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, of the largest value: gradients of entropies are sums of large terms, up to 15 here."""
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def entropy_slopes() -> tuple[float, float]:
    """Along one direction of the hidden states: a central difference of the entropies, and the slope by `backward`."""
    from s2l_nemo.actor.build import init_process_groups
    from s2l_nemo.actor.vocab_parallel import target_logprobs

    init_process_groups(ModelConfig(), timeout_s=1800)
    hidden_MH, weight_VH, target_M, _ = inputs()
    direction_MH = torch.randn(M, H, generator=torch.Generator().manual_seed(5))

    def entropy(step: float) -> torch.Tensor:
        moved_MH = (hidden_MH + step * direction_MH).requires_grad_()
        total = target_logprobs(moved_MH, weight_VH, target_M, TEMPERATURE, entropy_gradient=True)[1].sum()
        (slope_MH,) = torch.autograd.grad(total, moved_MH)
        return torch.stack([total.detach(), (slope_MH * direction_MH).sum()])

    higher, lower = entropy(1e-2)[0], entropy(-1e-2)[0]
    return ((higher - lower) / 2e-2).item(), entropy(0.0)[1].item()


def test_the_gradient_of_the_entropy_is_its_slope() -> None:
    ((difference, slope),) = run_ranks(entropy_slopes, 1)
    assert abs(slope) > 0.1
    assert slope == pytest.approx(difference, rel=1e-2)


def no_targets() -> tuple[torch.Size, float, float]:
    from s2l_nemo.actor import vocab_parallel
    from s2l_nemo.actor.build import init_process_groups

    init_process_groups(ModelConfig(), timeout_s=1800)
    hidden_MH, weight_VH = (torch.ones(rows, H, requires_grad=True) for rows in (0, V))
    figures_2M = vocab_parallel.target_logprobs(hidden_MH, weight_VH, torch.zeros(0, dtype=torch.long), TEMPERATURE)
    figures_2M[0].sum().backward()
    assert weight_VH.grad is not None
    return figures_2M.shape, figures_2M.sum().item(), weight_VH.grad.abs().sum().item()


def test_a_micro_batch_without_targets_has_no_gradient() -> None:
    assert run_ranks(no_targets, 1) == [(torch.Size([2, 0]), 0.0, 0.0)]


def chunk_elements() -> int:
    from s2l_nemo.actor.build import init_process_groups
    from s2l_nemo.actor.vocab_parallel import CHUNK_ELEMENTS

    init_process_groups(ModelConfig(), timeout_s=1800)
    return CHUNK_ELEMENTS


def test_the_planner_knows_the_chunk() -> None:
    assert run_ranks(chunk_elements, 1) == [LOGITS_OF_A_CHUNK]
