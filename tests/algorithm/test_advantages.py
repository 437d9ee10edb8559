from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.algorithm.advantages import group_advantages, zero_variance_fraction
from s2l_nemo.algorithm.options import AdvantageNorm, AdvantageStd, Baseline
from s2l_nemo.types import Source

E, L = Source.EXPLORER, Source.LEARNER
centred = partial(  # the reward less the mean of the whole group
    group_advantages, std=AdvantageStd.none, baseline=Baseline.mean, norm=AdvantageNorm.mixed, eps=0.0
)


def advantages(
    rewards: list[float],
    sources: list[Source] | None = None,
    kept: list[bool] | None = None,
    *,
    std: AdvantageStd = AdvantageStd.sample,
    baseline: Baseline = Baseline.mean,
    norm: AdvantageNorm = AdvantageNorm.mixed,
    eps: float = 0.0,
) -> list[float]:
    rewards_PG = torch.tensor([rewards])
    source_PG = torch.tensor([sources or [L] * len(rewards)])
    kept_PG = torch.ones_like(rewards_PG, dtype=torch.bool) if kept is None else torch.tensor([kept])
    result_PG = group_advantages(rewards_PG, source_PG, kept_PG, std=std, baseline=baseline, norm=norm, eps=eps)
    assert result_PG.dtype == torch.float32
    return [float(advantage) for advantage in result_PG[0]]


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        # rewards 1 0 0 0: mean 1/4; squares sum to 3/4; sample variance 1/4, population 3/16.
        ({}, [1.5, -0.5, -0.5, -0.5]),
        ({"std": AdvantageStd.population}, [math.sqrt(3), *[-1 / math.sqrt(3)] * 3]),
        ({"std": AdvantageStd.none}, [0.75, -0.25, -0.25, -0.25]),
        ({"eps": 0.5}, [0.75, -0.25, -0.25, -0.25]),
        ({"std": AdvantageStd.none, "baseline": Baseline.leave_one_out}, [1.0, -1 / 3, -1 / 3, -1 / 3]),
        ({"baseline": Baseline.leave_one_out}, [2.0, -2 / 3, -2 / 3, -2 / 3]),
    ],
)
def test_by_hand(choices: dict[str, Any], expected: list[float]) -> None:
    assert advantages([1.0, 0.0, 0.0, 0.0], **choices) == pytest.approx(expected)


def test_mixed_group_is_standardised_as_a_whole_and_split_per_source() -> None:
    rewards, sources = [1.0, 0.0, 0.0, 0.0], [E, E, L, L]
    assert advantages(rewards, sources) == pytest.approx([1.5, -0.5, -0.5, -0.5])
    # The explorer's half: mean 1/2, sample std sqrt(1/2). The learner's half is equal: exactly 0.
    split = advantages(rewards, sources, norm=AdvantageNorm.split)
    assert split == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5), 0.0, 0.0])


def test_split_with_a_single_sample_gives_it_zero() -> None:
    result = advantages([1.0, 1.0, 0.0], [E, L, L], norm=AdvantageNorm.split, std=AdvantageStd.none)
    assert result == [0.0, 0.5, -0.5]


@pytest.mark.parametrize("std", AdvantageStd)
@pytest.mark.parametrize("baseline", Baseline)
@pytest.mark.parametrize("norm", AdvantageNorm)
@pytest.mark.parametrize("rewards", [[0.1] * 3, [1.0], [0.7] * 7])
def test_r19_equal_rewards_are_exactly_zero(
    std: AdvantageStd, baseline: Baseline, norm: AdvantageNorm, rewards: list[float]
) -> None:
    # The mean of three times 0.1 is not 0.1 in floats.
    result = advantages(rewards, [E] + [L] * (len(rewards) - 1), std=std, baseline=baseline, norm=norm, eps=1e-6)
    assert result == [0.0] * len(rewards)


@given(st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=16), st.permutations(range(16)))
def test_sum_is_zero_and_order_does_not_matter(rewards: list[float], order: list[int]) -> None:
    order = [index for index in order if index < len(rewards)]
    result = advantages(rewards, eps=1e-6)
    assert sum(result) == pytest.approx(0, abs=1e-3)
    assert advantages([rewards[index] for index in order], eps=1e-6) == pytest.approx(
        [result[index] for index in order], abs=1e-4
    )


def test_groups_are_independent() -> None:
    rewards_PG = torch.tensor([[1.0, 0.0], [5.0, 5.0]])
    kept_PG = torch.ones(2, 2, dtype=torch.bool)
    result_PG = centred(rewards_PG, torch.zeros(2, 2), kept_PG)
    assert result_PG.tolist() == [[0.5, -0.5], [0.0, 0.0]]
    assert zero_variance_fraction(rewards_PG, kept_PG) == 0.5
    assert zero_variance_fraction(rewards_PG, torch.tensor([[True, False], [True, True]])) == 1.0


@pytest.mark.parametrize("norm", AdvantageNorm)
def test_what_is_left_out_counts_for_nothing(norm: AdvantageNorm) -> None:
    rewards, sources = [1.0, 5.0, 0.0, 1.0, 0.0], [E, E, E, L, L]
    result = advantages(rewards, sources, [True, False, True, True, True], norm=norm)
    without = advantages([1.0, 0.0, 1.0, 0.0], [E, E, L, L], norm=norm)
    assert result == [without[0], 0.0, *without[1:]]


@pytest.mark.parametrize(
    ("rewards_PG", "message"),
    [(torch.tensor([[1.0, torch.nan]]), "finite"), (torch.ones(1, 3), r"\(1, 3\).*\(1, 2\)")],
)
def test_bad_rewards(rewards_PG: torch.Tensor, message: str) -> None:
    kept_PG = torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match=message):
        centred(rewards_PG, torch.zeros(1, 2), kept_PG)
