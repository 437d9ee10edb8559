from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.measures.statistics import bootstrap_mean, majority_P, paired_bootstrap, pass_at_k


@given(st.data())
def test_pass_at_k_equals_counting_all_draws(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 8))
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    draws = list(itertools.combinations([1] * c + [0] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(any(draw) for draw in draws) / len(draws))


def test_pass_at_k_by_hand() -> None:
    assert pass_at_k(4, 1, 2) == pytest.approx(0.5)  # 1 - C(3,2)/C(4,2) = 1 - 3/6
    assert pass_at_k(1024, 1, 512) == pytest.approx(0.5)  # no overflow


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (4, 1, 0), (4, 5, 1), (4, -1, 1)])
def test_pass_at_k_refuses(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError):
        pass_at_k(n, c, k)


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
def test_majority_by_hand(answers: list[str | None], right: list[float], expected: float) -> None:
    assert majority_P([answers, ["1"]], [right, [0]]) == pytest.approx([expected, 0.0])


def test_majority_refuses_another_number_of_rewards() -> None:
    with pytest.raises(ValueError):
        majority_P([["1", "2"]], [[1]])


def test_bootstrap_of_two_problems_by_hand() -> None:
    # Means of two draws from {0, 1} are 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4: 95 % spans everything.
    assert bootstrap_mean([[0], [1]], seed=3) == (0.5, 0.0, 1.0)


def test_samples_of_a_problem_are_not_resampled() -> None:
    assert bootstrap_mean([[0, 1]] * 50) == (0.5, 0.5, 0.5)


def test_paired_differs_from_unpaired() -> None:
    # Every problem gains exactly 1/4, though problems differ widely: the paired interval has no width.
    before = np.repeat(np.eye(4)[[0]], 20, axis=0) * np.arange(20)[:, None]
    assert paired_bootstrap(before, before + 0.25) == pytest.approx((0.25, 0.25, 0.25))


def test_paired_bootstrap_may_compare_different_sample_counts() -> None:
    difference, low, high = paired_bootstrap([[0, 0]] * 10, [[1]] * 10)
    assert (difference, low, high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("before", "after"), [([[1]], [[1], [0]]), ([], []), ([1, 0], [1, 0]), ([[]], [[]])])
def test_paired_bootstrap_refuses(before: list[list[float]], after: list[list[float]]) -> None:
    with pytest.raises(ValueError):
        paired_bootstrap(before, after)


def test_same_seed_same_interval() -> None:
    values = np.random.default_rng(0).random((40, 2))
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


def test_one_problem_has_no_interval() -> None:
    assert bootstrap_mean([[0, 1]]) == (0.5, 0.5, 0.5)


def test_many_problems_are_drawn_in_parts() -> None:
    values = np.random.default_rng(0).random((50_000, 1))
    mean, low, high = bootstrap_mean(values, resamples=200)
    standard_error = values.std() / 50_000**0.5
    assert (high - low) / (2 * 1.96 * standard_error) == pytest.approx(1, abs=0.25)
    assert low < mean < high


def test_interval_covers_the_true_gain_in_about_95_of_100_experiments() -> None:
    rng = np.random.default_rng(5)
    experiments, covered, gain = 400, 0, 0.15
    for seed in range(experiments):
        p_before = rng.uniform(0.2, 0.8, 80)
        before = rng.random((80, 4)) < p_before[:, None]
        after = rng.random((80, 4)) < (p_before + gain)[:, None]
        _, low, high = paired_bootstrap(before, after, resamples=1000, seed=seed)
        covered += bool(low <= gain <= high)
    assert 0.91 <= covered / experiments <= 0.98


@pytest.mark.parametrize(
    ("problems", "tolerances"), [(30, {1: 0.0127, 4: 0.0127, 16: 0.03}), (10, {1: 0.03, 4: 0.0127, 16: 0.0127})]
)
def test_bands_cover_the_truth_at_their_nominal_rate(problems: int, tolerances: dict[int, float]) -> None:
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
        for k, truth in truths.items():
            values = [[pass_at_k(16, count, k)] for count in correct.sum(axis=1).tolist()]
            _, low, high = bootstrap_mean(values, resamples=1000, seed=seed)
            covered[k] += bool(low <= truth <= high)
    for k, tolerance in tolerances.items():
        assert covered[k] / evaluations == pytest.approx(0.95, abs=tolerance), k
