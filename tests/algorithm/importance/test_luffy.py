"""LUFFY's shape of the learner's own probability, beside `shaped`, which takes the ratio to the explorer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from s2l_nemo.types import Source
from tests.algorithm.by_hand import NO_KL, one_token

LUFFY = replace(NO_KL, importance="luffy", clip_low=0.2)


@pytest.mark.parametrize(
    ("pi", "value", "factor"),
    # pi/(pi + 0.1), and the factor of grad log pi: 0.1 pi/(pi + 0.1)^2
    [(1.0, 1 / 1.1, 0.1 / 1.21), (0.5, 5 / 6, 0.05 / 0.36), (0.1, 0.5, 0.25), (0.01, 1 / 11, 0.001 / 0.0121)],
)
@pytest.mark.parametrize("sampler", [0.9, 0.02])
@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_explorer_tokens(pi: float, value: float, factor: float, sampler: float, advantage: float) -> None:
    loss, slope, sums = one_token(LUFFY, pi=pi, advantage=advantage, old=pi, sampler=sampler, source=Source.EXPLORER)
    assert (loss, slope) == pytest.approx((-advantage * value, -advantage * factor), rel=1e-5)
    assert sums["clipped"] == 0
    assert sums["ratio_sum"] == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("pi", [1.0, 0.5, 0.1, 0.01])
def test_shaped_has_one_factor_wherever_the_models_agree(pi: float) -> None:
    shaped = replace(LUFFY, importance="shaped")
    _, slope, _ = one_token(shaped, pi=pi, advantage=1.0, old=pi, sampler=pi, source=Source.EXPLORER)
    assert slope == pytest.approx(-0.1 / 1.21, rel=1e-5)


def test_gamma() -> None:
    _, slope, _ = one_token(
        replace(LUFFY, shaping_gamma=0.5), pi=0.5, advantage=1.0, old=0.5, sampler=0.5, source=Source.EXPLORER
    )
    assert slope == pytest.approx(-0.25)


def test_learner_tokens_are_those_of_learner_old() -> None:
    for pi_over_old, advantage in ((1.1, 1.0), (1.5, 1.0), (0.5, -1.0)):
        found = one_token(LUFFY, pi=0.5 * pi_over_old, advantage=advantage, old=0.5, sampler=0.3)
        wanted = one_token(NO_KL, pi=0.5 * pi_over_old, advantage=advantage, old=0.5, sampler=0.3)
        assert found == wanted
