"""The band of IcePop is 0.5 to 5: inside the weight is k, outside there is no gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.algorithm.by_hand import NO_KL, one_token

ICEPOP = replace(NO_KL, importance="icepop", importance_cap=1.0, importance_floor=1.0)  # those are `masked`'s


@pytest.mark.parametrize(
    ("old_over_sampler", "weight"), [(0.51, 0.51), (0.49, 0.0), (1.0, 1.0), (4.9, 4.9), (5.1, 0.0)]
)
def test_the_band_of_the_paper(old_over_sampler: float, weight: float) -> None:
    loss, slope, sums = one_token(ICEPOP, pi=0.11, advantage=1.0, old=0.1, sampler=0.1 / old_over_sampler)
    assert (loss, slope) == pytest.approx((-1.1 * weight, -1.1 * weight), rel=1e-5)
    assert sums["rejected"] == (weight == 0)


def test_the_band_has_its_keys() -> None:
    wide = replace(ICEPOP, icepop_alpha=0.4, icepop_beta=6.0)
    assert one_token(wide, pi=0.11, advantage=1.0, old=0.1, sampler=0.1 / 5.5)[1] == pytest.approx(-1.1 * 5.5)
    assert one_token(wide, pi=0.11, advantage=1.0, old=0.1, sampler=0.1 / 0.45)[1] == pytest.approx(-1.1 * 0.45)
