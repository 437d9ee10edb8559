import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.measures.statistics import (
    bootstrap_mean,
    majority_P,
    mean_pass_at_1,
    paired_bootstrap,
    pass_at_k,
    pass_at_k_curve,
    pass_at_k_P,
)


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


@given(st.integers(1, 3), st.integers(1, 6), st.data())
def test_pass_at_k_of_problems_equals_counting_all_subsets(problems, samples, data):
    row = st.lists(st.sampled_from([0, 1]), min_size=samples, max_size=samples)
    correct = data.draw(st.lists(row, min_size=problems, max_size=problems))
    for k in range(1, samples + 1):
        expected = [np.mean([max(subset) for subset in itertools.combinations(row, k)]) for row in correct]
        assert pass_at_k_P(correct, k) == pytest.approx(expected)


def test_curve_by_hand():
    # Two problems, one solved once in four: pass@2 is (1/2 + 0) / 2.
    curve = pass_at_k_curve([[1, 0, 0, 0], [0, 0, 0, 0]], [1, 2, 4], seed=3)
    assert curve == {1: (0.125, 0.0, 0.25), 2: (0.25, 0.0, 0.5), 4: (0.5, 0.0, 1.0)}


def test_problems_may_have_different_numbers_of_samples():
    assert pass_at_k_P([[1, 0, 0, 0], [0, 1]], 2) == pytest.approx([0.5, 1.0])
    with pytest.raises(ValueError, match="pass@3"):
        pass_at_k_P([[1, 0, 0, 0], [0, 1]], 3)


def test_curve_at_1_is_the_interval_of_the_mean():
    correct = np.random.default_rng(0).random((30, 8)) < 0.4
    assert pass_at_k_curve(correct, [1], seed=7)[1] == pytest.approx(bootstrap_mean(correct, seed=7))


@pytest.mark.parametrize(
    ("correct", "ks"), [([[1, 0]], [3]), ([[1, 0]], [1, 0]), ([[0.5, 0]], [1]), ([[2, 0]], [1]), ([], [1]), ([[]], [1])]
)
def test_curve_refuses(correct, ks):
    with pytest.raises(ValueError):
        pass_at_k_curve(correct, ks)


@pytest.mark.parametrize(
    ("answers", "right", "expected"),
    [
        (["2", "2", "3"], [1, 1, 0], 1.0),
        (["2", "3", "3"], [1, 0, 0], 0.0),
        (["2", "3", "4", "2", "3"], [1, 0, 0, 1, 0], 0.5),  # 2 and 3 tie
        (["2", "3", "1/3"], [1, 0, 0], 1 / 3),
        (["2", "0.5", "1/2"], [0, 1, 1], 2 / 3),  # two right spellings, three ties
        ([None, None, "2"], [0, 0, 1], 1.0),  # no answer never wins
        ([None, None], [0, 0], 0.0),
        (["2", "2", "3"], [0, 1, 0], 1.0),  # the check of the first one was killed
        (["2", "2", "3"], [1, 0, 0], 1.0),  # or of the second one
    ],
)
def test_majority_by_hand(answers, right, expected):
    assert majority_P([answers, ["1"]], [right, [0]]) == pytest.approx([expected, 0.0])


def test_majority_refuses_another_number_of_rewards():
    with pytest.raises(ValueError):
        majority_P([["1", "2"]], [[1]])


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


def test_one_problem_has_no_interval():
    assert bootstrap_mean([[0, 1]]) == (0.5, 0.5, 0.5)


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


@pytest.mark.parametrize(
    ("problems", "tolerances"), [(30, {1: 0.0127, 4: 0.0127, 16: 0.03}), (10, {1: 0.03, 4: 0.0127, 16: 0.0127})]
)
def test_bands_cover_the_truth_at_their_nominal_rate(problems, tolerances):
    # Evaluations with 16 samples, 30 problems as AIME, with a right answer at a rate from Beta(1/2, 3/2): many hard
    # problems, few easy ones. The truths are E[1 - (1 - p)^k] = 1 - prod (3/2 + i) / (2 + i), i < k. 2000 evaluations
    # of coverage 0.95 have a standard error of 0.0049, and the tolerance is 2.6 of them (1 %) on either side, besides
    # a point or two of undercoverage where values are few and skewed. Plain percentiles of 10 problems cover 0.90.
    rng = np.random.default_rng(11)
    evaluations = 2000
    truths = {k: 1 - np.prod([(1.5 + i) / (2 + i) for i in range(k)]) for k in tolerances}
    assert truths[1] == pytest.approx(1 / 4)
    covered = dict.fromkeys(tolerances, 0)
    for seed in range(evaluations):
        correct = rng.random((problems, 16)) < rng.beta(0.5, 1.5, (problems, 1))
        for k, (_, low, high) in pass_at_k_curve(correct, list(truths), resamples=1000, seed=seed).items():
            covered[k] += low <= truths[k] <= high
    for k, tolerance in tolerances.items():
        assert covered[k] / evaluations == pytest.approx(0.95, abs=tolerance), k
