"""A token keeps its gradient outside of the band; only its weight stops there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.algorithm.by_hand import NO_KL, one_token

CISPO = replace(NO_KL, importance="cispo", dual_clip=1.1)


@pytest.mark.parametrize(
    ("pi_over_old", "weight"),
    [(1.1, 1.1), (1.5, 1.2), (5.0, 1.2), (0.9, 0.9), (0.5, 0.8)],
)
@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_the_clipped_weight_of_grad_log_pi(pi_over_old: float, weight: float, advantage: float) -> None:
    loss, slope, _ = one_token(CISPO, pi=pi_over_old, advantage=advantage)
    assert (loss, slope) == pytest.approx((-weight * advantage, -weight * advantage), rel=1e-5)


def test_without_a_lower_bound_as_in_the_paper() -> None:
    paper = replace(CISPO, clip_low=None, clip_high=2.0)
    assert one_token(paper, pi=0.5, advantage=-1.0)[1] == pytest.approx(0.5)
    assert one_token(paper, pi=4.0, advantage=1.0)[1] == pytest.approx(-3.0)


def test_the_ratio_to_the_sampler() -> None:
    found = one_token(replace(CISPO, ratio_to_sampler=True), pi=0.55, advantage=1.0, old=0.1, sampler=0.5)
    assert found[:2] == pytest.approx((-1.1, -1.1))
