"""Defaults of the statistics, what they refuse, and their tails."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import ArrayLike

from s2l_nemo.measures.statistics import (
    Interval,
    bootstrap_mean,
    expanded_tail,
    majority_P,
    mean,
    paired_bootstrap,
    pass_at_k,
)


def test_mean_of_nothing_is_none() -> None:
    assert mean([1.0, 2.0, 6.0]) == 3.0
    assert mean([True, False, False, False]) == 0.25
    assert mean([]) is None


def test_intervals_take_ten_thousand_resamples_of_seed_0() -> None:
    values_PK = np.random.default_rng(1).random((40, 2))
    assert bootstrap_mean(values_PK) == bootstrap_mean(values_PK, resamples=10_000, seed=0)
    before_PK = np.zeros((40, 2))
    assert paired_bootstrap(before_PK, values_PK) == paired_bootstrap(before_PK, values_PK, resamples=10_000, seed=0)
    assert paired_bootstrap(before_PK, values_PK) == pytest.approx(bootstrap_mean(values_PK))


@pytest.mark.parametrize("changes", [{"resamples": 9_999}, {"resamples": 10_001}, {"seed": 1}])
def test_both_decide_the_interval(changes: dict[str, int]) -> None:
    values_PK = np.random.default_rng(1).random((40, 2))
    assert bootstrap_mean(values_PK, **changes) != bootstrap_mean(values_PK)
    assert paired_bootstrap(0 * values_PK, values_PK, **changes) != paired_bootstrap(0 * values_PK, values_PK)


def test_an_interval_has_names() -> None:
    assert bootstrap_mean([[0], [1]])._asdict() == {"mean": 0.5, "low": 0.0, "high": 1.0}
    assert Interval(1.0, 0.0, 2.0) == (1.0, 0.0, 2.0)


@pytest.mark.parametrize(
    ("n", "c", "k", "message"),
    [
        (4, 1, 5, "pass@5 needs at least 5 samples (k >= 1), got 4"),
        (4, 1, 0, "pass@0 needs at least 0 samples (k >= 1), got 4"),
        (4, 5, 1, "5 correct of 4 samples"),
        (4, -1, 1, "-1 correct of 4 samples"),
    ],
)
def test_pass_at_k_says_what_is_wrong(n: int, c: int, k: int, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        pass_at_k(n, c, k)
    assert str(caught.value) == message


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match=r"^a paired comparison needs the same problems, got 1 and 2$"):
        paired_bootstrap([[1]], [[1], [0]])
    malformed: list[ArrayLike] = [[1.0, 0.0], [[]], [], [[[1.0]]]]
    for values in malformed:
        with pytest.raises(ValueError, match=r"^expected problems x samples with at least one of each, got shape \("):
            bootstrap_mean(values)
    with pytest.raises(ValueError, match="shorter"):
        majority_P([["1"], ["2"]], [[1.0]])


@pytest.mark.parametrize(("problems", "freedom"), [(1, 1), (2, 1), (5, 4), (30, 29)])
def test_the_tail_is_that_of_student_with_the_variance_of_a_bootstrap(problems: int, freedom: int) -> None:
    # Abramowitz and Stegun, 26.7.5, at 97.5 %: t = 1.95996 + 2.37227 / f + 2.82250 / f^2
    t = 1.959964 + 2.372272 / freedom + 2.822498 / freedom**2
    assert expanded_tail(problems) == pytest.approx(NormalDist().cdf(-t * math.sqrt(problems / freedom)), rel=1e-4)


@pytest.mark.parametrize("at_once", [3, 10, 28, 1000])
def test_draws_in_parts_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    values_PK = np.random.default_rng(1).random((4, 2))
    whole = bootstrap_mean(values_PK, resamples=7)
    monkeypatch.setattr("s2l_nemo.measures.statistics._DRAWS_AT_ONCE", at_once)
    assert bootstrap_mean(values_PK, resamples=7) == whole
