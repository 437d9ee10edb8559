from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.engines.embedded.sampling import sample_tokens, sampling_logprobs, uniforms
from s2l_nemo.types import SamplingParams

PROBS = (0.4, 0.3, 0.2, 0.1)


def params(**values: Any) -> SamplingParams:
    return SamplingParams(max_new_tokens=1, stop_token_ids=(), **values)


def distribution(sampling: SamplingParams, probs: tuple[float, ...] = PROBS) -> list[float]:
    return sampling_logprobs(torch.tensor([probs]).log(), sampling).exp()[0].tolist()


def splitmix64_reference(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


@given(seed=st.integers(0, 2**63 - 1), position=st.integers(0, 2**20))
def test_uniforms_equal_unsigned_arithmetic(seed: int, position: int) -> None:
    bits = splitmix64_reference((splitmix64_reference(seed) + (position + 1) * 0x9E3779B97F4A7C15) % 2**64)
    assert uniforms(torch.tensor([seed]), torch.tensor([position])).item() == (bits >> 11) / 2**53


def test_uniforms_of_neighbouring_seeds_and_positions_are_unrelated() -> None:
    seeds_B, positions_B = (x.flatten() for x in torch.meshgrid(torch.arange(300), torch.arange(300), indexing="ij"))
    table = uniforms(seeds_B, positions_B).view(300, 300)
    assert table.min() >= 0
    assert table.max() < 1
    assert table.flatten().unique().numel() == 90_000
    counts = torch.histc(table.float(), bins=100, min=0, max=1)
    assert ((counts - 900) ** 2 / 900).sum() < 148.2  # chi-square, 99 degrees of freedom, p = 0.001
    centred = table - table.mean()
    for neighbour in (centred.roll(1, 0), centred.roll(1, 1)):
        # The correlation of 90,000 independent pairs has a standard deviation of 1/300.
        assert abs((centred * neighbour).mean() / centred.var()) < 4 / 300


@pytest.mark.parametrize(
    "sampling",
    [params(), params(temperature=0.5), params(temperature=1.5), params(top_k=2), params(top_p=0.8)],
)
def test_samples_follow_the_distribution(sampling: SamplingParams) -> None:
    draws = 20_000
    logits_BV = torch.tensor([0.25, 0.2, 0.2, 0.15, 0.1, 0.05, 0.04, 0.01]).log().expand(draws, 8)
    positions_B = torch.arange(draws) % 10
    tokens_B, logprobs_B = sample_tokens(logits_BV, torch.arange(draws) // 10, positions_B, sampling)
    expected_V = sampling_logprobs(logits_BV[:1], sampling).exp()[0] * draws
    counts_V = tokens_B.bincount(minlength=8)
    assert counts_V[expected_V == 0].sum() == 0
    inside = expected_V > 0
    chi_square = ((counts_V - expected_V) ** 2 / expected_V)[inside].sum().item()
    assert chi_square < 24.3  # 7 degrees of freedom or fewer, p = 0.001
    torch.testing.assert_close(logprobs_B, (expected_V / draws).log()[tokens_B])


def test_inverse_cumulative_distribution() -> None:
    seeds_B = torch.arange(1000)
    positions_B = torch.full((1000,), 3)
    tokens_B, _ = sample_tokens(torch.tensor([PROBS]).log().expand(1000, 4), seeds_B, positions_B, params())
    borders = torch.tensor([0.4, 0.7, 0.9], dtype=torch.float64)
    assert torch.equal(tokens_B, torch.bucketize(uniforms(seeds_B, positions_B), borders, right=True))


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    torch.manual_seed(0)
    logits_BV, seeds_B, positions_B = torch.randn(64, 50), torch.arange(64), torch.arange(64) // 2
    sampling = params(top_p=0.9, top_k=30, temperature=0.8)
    tokens_B, logprobs_B = sample_tokens(logits_BV, seeds_B, positions_B, sampling)
    for row in range(64):
        one = slice(row, row + 1)
        token, logprob = sample_tokens(logits_BV[one], seeds_B[one], positions_B[one], sampling)
        assert token == tokens_B[row]
        torch.testing.assert_close(logprob, logprobs_B[one])


def test_temperature_scales_the_logits() -> None:
    # At temperature 1/2 probabilities are squared and normalised: (16, 9, 4, 1) / 30.
    assert distribution(params(temperature=0.5)) == pytest.approx([16 / 30, 9 / 30, 4 / 30, 1 / 30])


def test_top_k() -> None:
    assert distribution(params(top_k=2)) == pytest.approx([4 / 7, 3 / 7, 0, 0])
    assert distribution(params(top_k=2), (0.1, 0.4, 0.1, 0.4)) == pytest.approx([0, 0.5, 0, 0.5])
    assert distribution(params(top_k=1), (0.4, 0.4, 0.1, 0.1)) == pytest.approx([0.5, 0.5, 0, 0])
    assert distribution(params(top_k=9)) == pytest.approx(PROBS)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.01, 1), (0.39, 1), (0.41, 2), (0.69, 2), (0.71, 3), (0.95, 4), (1.0, 4)]
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, kept: int) -> None:
    mass = sum(PROBS[:kept])
    expected = [p / mass if i < kept else 0 for i, p in enumerate(PROBS)]
    assert distribution(params(top_p=top_p)) == pytest.approx(expected)
    assert distribution(params(top_p=top_p), PROBS[::-1]) == pytest.approx(expected[::-1])


def test_top_p_applies_to_what_top_k_left() -> None:
    # Top-k 2 leaves 4/7 and 3/7: 4/7 alone reaches 0.5, though it did not reach 0.5 of the whole.
    assert distribution(params(top_k=2, top_p=0.5)) == pytest.approx([1, 0, 0, 0])


def test_greedy_reports_the_unscaled_distribution() -> None:
    logits_BV = torch.tensor([PROBS, PROBS[::-1]]).log()
    tokens_B, logprobs_B = sample_tokens(logits_BV, torch.tensor([1, 2]), torch.tensor([0, 0]), params(temperature=0.0))
    assert tokens_B.tolist() == [0, 3]
    assert logprobs_B.tolist() == pytest.approx([math.log(0.4)] * 2)


def test_logprobs_are_float32_for_a_bfloat16_model() -> None:
    logits_BV = torch.randn(4, 30, generator=torch.Generator().manual_seed(0)).bfloat16()
    tokens_B, logprobs_B = sample_tokens(logits_BV, torch.arange(4), torch.arange(4), params())
    assert logprobs_B.dtype is torch.float32
    expected_BV = torch.log_softmax(logits_BV.float(), dim=-1)
    torch.testing.assert_close(logprobs_B, expected_BV.gather(1, tokens_B[:, None])[:, 0])


def test_tokens_of_probability_zero_are_never_drawn() -> None:
    logits_BV = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).expand(5000, 5)
    tokens_B, _ = sample_tokens(logits_BV, torch.arange(5000), torch.zeros(5000, dtype=torch.long), params())
    assert set(tokens_B.tolist()) == {1, 3}


def test_presence_penalty_is_taken_once_off_what_the_row_has_generated() -> None:
    # A penalty of ln 2 halves the odds of tokens 0 and 3 in the first row: (0.2, 0.3, 0.2, 0.05) / 0.75.
    seen_BV = torch.tensor([[True, False, False, True], [False] * 4]).repeat(50, 1)
    sampling = params(presence_penalty=math.log(2))
    logits_BV, seeds_B = torch.tensor([PROBS]).log().expand(100, 4), torch.arange(100)
    tokens_B, logprobs_B = sample_tokens(logits_BV, seeds_B, torch.full((100,), 5), sampling, seen_BV)
    assert set(tokens_B[0::2].tolist()) == set(tokens_B[1::2].tolist()) == {0, 1, 2, 3}
    expected_BV = torch.tensor([[0.2 / 0.75, 0.3 / 0.75, 0.2 / 0.75, 0.05 / 0.75], PROBS]).repeat(50, 1)
    torch.testing.assert_close(logprobs_B.exp(), expected_BV.gather(1, tokens_B[:, None])[:, 0])


def test_presence_penalty_comes_before_temperature_and_top_k_and_makes_greedy_move_on() -> None:
    def draws(sampling: SamplingParams) -> tuple[torch.Tensor, torch.Tensor]:
        logits_BV = torch.tensor([PROBS]).log().expand(2000, 4)
        seen_BV = torch.tensor([[True, False, False, False]]).repeat(2000, 1)
        return sample_tokens(logits_BV, torch.arange(2000), torch.zeros(2000, dtype=torch.long), sampling, seen_BV)

    # Token 0 falls to 0.4 / 4 = 0.1: top-k 2 leaves 1 and 2 alone, at temperature 1/2 with odds 9 : 4.
    tokens_B, logprobs_B = draws(params(presence_penalty=math.log(4), temperature=0.5, top_k=2))
    assert set(tokens_B.tolist()) == {1, 2}
    expected_V = torch.tensor([1.0, 9 / 13, 4 / 13, 1.0]).log()
    torch.testing.assert_close(logprobs_B, expected_V[tokens_B])
    tokens_B, logprobs_B = draws(params(presence_penalty=math.log(4), temperature=0.0))
    assert set(tokens_B.tolist()) == {1}
    assert logprobs_B[0].item() == pytest.approx(math.log(0.3 / 0.7))


def test_sampled_tokens_are_marked_as_seen() -> None:
    seen_BV = torch.zeros(2, 4, dtype=torch.bool)
    logits_BV = torch.tensor([[0.0, 9.0, 0.0, 0.0], [0.0, 0.0, 0.0, 9.0]])
    sampling = params(temperature=0.0, presence_penalty=10.0)
    zeros_B = torch.zeros(2, dtype=torch.long)
    first_B, _ = sample_tokens(logits_BV, zeros_B, zeros_B, sampling, seen_BV)
    assert first_B.tolist() == [1, 3]
    assert seen_BV.tolist() == [[False, True, False, False], [False, False, False, True]]
    second_B, _ = sample_tokens(logits_BV, zeros_B, zeros_B, sampling, seen_BV)
    assert second_B.tolist() == [0, 0]
    assert seen_BV.sum() == 4
