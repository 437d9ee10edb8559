"""The mean over seeds and problems: values by hand, and how often its interval covers the truth."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.measures.crossed import crossed_mean, student_quantile
from s2l_nemo.measures.statistics import Floats, bootstrap_mean

TRUTH = 0.05


@pytest.mark.parametrize(
    ("share", "freedom", "value"),
    [(0.975, 1, 12.7062), (0.975, 2, 4.30265), (0.95, 5, 2.01505), (0.975, 30, 2.04227), (0.975, 1e9, 1.9602)],
)
def test_quantiles_of_the_printed_tables(share: float, freedom: float, value: float) -> None:
    assert student_quantile(share, freedom) == pytest.approx(value, rel=1e-4)


def test_quantiles_between_whole_degrees() -> None:
    # With 2 degrees the quantile is (2p-1) / sqrt(2p(1-p)) exactly.
    assert student_quantile(0.9, 2) == pytest.approx(0.8 / sqrt(2 * 0.9 * 0.1), rel=1e-7)
    assert student_quantile(0.9, 2.5) < student_quantile(0.9, 2)
    assert student_quantile(0.5, 3) == 0


@pytest.mark.parametrize(("share", "freedom"), [(0.4, 2), (1.0, 2), (0.9, 0.5)])
def test_no_quantile(share: float, freedom: float) -> None:
    with pytest.raises(ValueError, match="expected a share"):
        student_quantile(share, freedom)


def test_two_seeds_and_two_problems_by_hand() -> None:
    # Means of seeds 2 and 6, of problems 3 and 5; the rest is +-1. M_S = 2*8 = 16, M_P = 2*2 = 4, M_E = 4.
    # S P var = 16, degrees 16^2 / (16^2 + 4^2 + 4^2) = 0.89, at least 1.
    found = crossed_mean([[2, 2], [4, 8]])
    assert found is not None
    half = 12.7062 * sqrt(16 / 4)
    assert found == pytest.approx((4, 4 - half, 4 + half), rel=1e-5)


def test_problems_alone_decide_if_seeds_agree() -> None:
    # All seeds say the same: M_S = M_E = 0, M_P = 3 * var([0, 1, 2]) = 3; var = 3/9, 2 degrees.
    found = crossed_mean([[0, 1, 2]] * 3)
    assert found is not None
    assert found == pytest.approx((1, 1 - 4.30265 * sqrt(1 / 3), 1 + 4.30265 * sqrt(1 / 3)), rel=1e-5)


def test_one_value_a_seed() -> None:
    found = crossed_mean([[0.1], [0.2], [0.6]])
    assert found is not None
    half = 4.30265 * sqrt(0.07 / 3)
    assert found == pytest.approx((0.3, 0.3 - half, 0.3 + half), rel=1e-5)


def test_one_seed_is_the_bootstrap_over_problems() -> None:
    assert crossed_mean([[0.0, 1.0, 1.0, 0.0]]) == bootstrap_mean([[0.0], [1.0], [1.0], [0.0]])


def test_no_spread_no_width_and_no_value() -> None:
    assert crossed_mean([[0.5] * 4] * 3) == (0.5, 0.5, 0.5)
    assert crossed_mean([[0.5]]) is None
    for shape in ((0, 0), (1, 0), (2,)):
        with pytest.raises(ValueError, match="expected seeds x problems"):
            crossed_mean(np.zeros(shape))


@given(st.integers(2, 5), st.integers(1, 6), st.floats(-3, 3), st.integers(0, 99))
def test_a_shift_moves_the_interval_and_a_sign_turns_it(seeds: int, problems: int, shift: float, draw: int) -> None:
    values = np.random.default_rng(draw).normal(size=(seeds, problems))
    found, moved, turned = crossed_mean(values), crossed_mean(values + shift), crossed_mean(-values)
    assert found is not None
    assert moved == pytest.approx([one + shift for one in found], abs=1e-9)
    assert turned == pytest.approx((-found.mean, -found.high, -found.low), abs=1e-9)


def drawn(rng: np.random.Generator, seeds: int, problems: int, spread: tuple[float, float, float]) -> Floats:
    of_seed, of_problem, of_both = spread
    effects = rng.normal(0, of_seed, (seeds, 1)) + rng.normal(0, of_problem, (1, problems))
    return np.asarray(TRUTH + effects + rng.normal(0, of_both, (seeds, problems)))


@pytest.mark.parametrize(
    ("seeds", "problems", "spread"),
    [
        (3, 256, (0.02, 0.1, 0.3)),  # about what tiny runs show
        (3, 256, (0.0, 0.1, 0.3)),  # seeds make no difference
        (3, 256, (0.1, 0.1, 0.1)),  # nothing but seeds counts
        (5, 60, (0.02, 0.0, 0.3)),
    ],
)
def test_the_interval_covers_the_truth_in_95_of_100_experiments(
    seeds: int, problems: int, spread: tuple[float, float, float]
) -> None:
    rng = np.random.default_rng(1)
    found = [crossed_mean(drawn(rng, seeds, problems, spread)) for _ in range(600)]
    covered = np.mean([one is not None and one.low <= TRUTH <= one.high for one in found])
    assert 0.92 <= covered <= 0.985  # one standard error is 0.009


def test_a_bootstrap_over_three_seeds_would_not() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        values = drawn(rng, 3, 64, (0.1, 0.1, 0.1))
        rows, columns = rng.integers(0, 3, (400, 3)), rng.integers(0, 64, (400, 64))
        low, high = np.quantile(values[rows[:, :, None], columns[:, None, :]].mean(axis=(1, 2)), (0.025, 0.975))
        covered += low <= TRUTH <= high
    assert covered / 200 < 0.85
