"""What the statistics do if nobody says otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from s2l_nemo.measures.statistics import Interval, bootstrap_mean, mean, paired_bootstrap


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
