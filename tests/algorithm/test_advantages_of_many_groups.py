"""Groups that are standardised together do not touch each other, whatever the choices."""

from __future__ import annotations

import itertools

import pytest
import torch

from s2l_nemo.algorithm.advantages import group_advantages
from s2l_nemo.algorithm.options import AdvantageNorm, AdvantageStd, Baseline
from s2l_nemo.types import Source

E, L = Source.EXPLORER, Source.LEARNER
# As many groups as members, so that a statistic of a group that were spread over members would go unseen by shapes.
REWARDS_PG = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.5, 0.0], [3.0, 5.0, 5.0, 8.0], [2.0, 2.0, 2.0, 2.0]])
SOURCE_PG = torch.tensor([[E, E, L, L]] * 4)
KEPT_PG = torch.tensor([[True] * 4, [True, True, False, True], [False, True, True, True], [True] * 4])


@pytest.mark.parametrize("groups", [4, 3])
@pytest.mark.parametrize(("std", "baseline", "norm"), [*itertools.product(AdvantageStd, Baseline, AdvantageNorm)])
def test_together_as_one_by_one(groups: int, std: AdvantageStd, baseline: Baseline, norm: AdvantageNorm) -> None:
    together_PG = group_advantages(
        REWARDS_PG[:groups], SOURCE_PG[:groups], KEPT_PG[:groups], std=std, baseline=baseline, norm=norm, eps=0.25
    )
    for row in range(groups):
        one = slice(row, row + 1)
        alone_1G = group_advantages(
            REWARDS_PG[one], SOURCE_PG[one], KEPT_PG[one], std=std, baseline=baseline, norm=norm, eps=0.25
        )
        assert together_PG[row].tolist() == alone_1G[0].tolist()


def test_three_groups_by_hand() -> None:
    result_PG = group_advantages(
        REWARDS_PG[1:],
        SOURCE_PG[1:],
        KEPT_PG[1:],
        std=AdvantageStd.population,
        baseline=Baseline.mean,
        norm=AdvantageNorm.mixed,
        eps=0.5,
    )
    # 1 1 0: mean 2/3, variance 2/9. 5 5 8: mean 6, variance 2. All equal: exactly 0.
    first, second = 2**0.5 / 3 + 0.5, 2**0.5 + 0.5
    expected_PG = [
        [1 / 3 / first, 1 / 3 / first, 0.0, -2 / 3 / first],
        [0.0, -1 / second, -1 / second, 2 / second],
        [0.0] * 4,
    ]
    torch.testing.assert_close(result_PG, torch.tensor(expected_PG))


def test_large_rewards_keep_their_differences() -> None:
    # Their mean, 16777216 2/3, is no float32: in single precision it would be 2**24, and the first two exactly 0.
    rewards_1G = torch.tensor([[2.0**24, 2.0**24, 2.0**24 + 2]])
    result_1G = group_advantages(
        rewards_1G,
        torch.tensor([[L, L, L]]),
        torch.ones(1, 3, dtype=torch.bool),
        std=AdvantageStd.none,
        baseline=Baseline.mean,
        norm=AdvantageNorm.mixed,
        eps=0.0,
    )
    assert result_1G[0].tolist() == pytest.approx([-2 / 3, -2 / 3, 4 / 3])
