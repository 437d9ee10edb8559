import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.report.statistics import bootstrap_mean, mean_pass_at_1, paired_bootstrap, pass_at_k


@given(st.data())
def test_pass_at_k_equals_counting_all_draws(data):
    n = data.draw(st.integers(1, 8))
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    draws = list(itertools.combinations([1] * c + [0] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(any(draw) for draw in draws) / len(draws))


def test_pass_at_k_by_hand():
    assert pass_at_k(4, 1, 2) == pytest.approx(0.5)  # 1 - C(3,2)/C(4,2) = 1 - 3/6
    assert pass_at_k(1024, 1, 512) == pytest.approx(0.5)  # no overflow


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (4, 1, 0), (4, 5, 1), (4, -1, 1)])
def test_pass_at_k_refuses(n, c, k):
    with pytest.raises(ValueError):
        pass_at_k(n, c, k)


def test_mean_pass_at_1_by_hand():
    assert mean_pass_at_1([[1, 1], [1, 0], [0, 0]]) == pytest.approx(0.5)


def test_bootstrap_of_two_problems_by_hand():
    # Means of two draws from {0, 1} are 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4: 95 % spans everything.
    assert bootstrap_mean([[0], [1]], seed=3) == (0.5, 0.0, 1.0)


def test_samples_of_a_problem_are_not_resampled():
    assert bootstrap_mean([[0, 1]] * 50) == (0.5, 0.5, 0.5)


def test_paired_differs_from_unpaired():
    # Every problem gains exactly 1/4, though problems differ widely: the paired interval has no width.
    before = np.repeat(np.eye(4)[[0]], 20, axis=0) * np.arange(20)[:, None]
    assert paired_bootstrap(before, before + 0.25) == pytest.approx((0.25, 0.25, 0.25))


def test_paired_bootstrap_may_compare_different_sample_counts():
    difference, low, high = paired_bootstrap([[0, 0]] * 10, [[1]] * 10)
    assert (difference, low, high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("before", "after"), [([[1]], [[1], [0]]), ([], []), ([1, 0], [1, 0]), ([[]], [[]])])
def test_paired_bootstrap_refuses(before, after):
    with pytest.raises(ValueError):
        paired_bootstrap(before, after)


def test_same_seed_same_interval():
    values = np.random.default_rng(0).random((40, 2))
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


def test_many_problems_are_drawn_in_parts():
    values = np.random.default_rng(0).random((50_000, 1))
    mean, low, high = bootstrap_mean(values, resamples=200)
    standard_error = values.std() / 50_000**0.5
    assert (high - low) / (2 * 1.96 * standard_error) == pytest.approx(1, abs=0.25)
    assert low < mean < high


def test_interval_covers_the_true_gain_in_about_95_of_100_experiments():
    rng = np.random.default_rng(5)
    experiments, covered, gain = 400, 0, 0.15
    for seed in range(experiments):
        p_before = rng.uniform(0.2, 0.8, 80)
        before = rng.random((80, 4)) < p_before[:, None]
        after = rng.random((80, 4)) < (p_before + gain)[:, None]
        _, low, high = paired_bootstrap(before, after, resamples=1000, seed=seed)
        covered += low <= gain <= high
    assert 0.91 <= covered / experiments <= 0.98
