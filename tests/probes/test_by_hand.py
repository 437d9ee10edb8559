"""The pure functions on values worked out by hand, and what holds for all values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.probes.alignment import gamma_TT, lower_bound_TT, share_above_zero
from s2l_nemo.probes.covariance import (
    LOGIT_BOUND,
    bound_T,
    covariance_TT,
    inner_covariance_TT,
    lag_sums,
    largest_share_of_bound,
)
from s2l_nemo.probes.growth import clock_slope, drift_T, horizon, lengths_between, log_slope
from s2l_nemo.probes.prefix import decay_bound_T, decay_rate, held_T, match_probability_T, matched_NT
from s2l_nemo.probes.scores import gaussian, length, logit_scores_TV, relative_noise, unit


def test_a_response_matches_until_it_differs_and_for_ever_if_it_ends_with_the_reference() -> None:
    found = matched_NT([[5, 6, 2], [5, 6], [5, 6, 2, 7], [5, 9, 2], [8]], [5, 6, 2], 4)
    assert found.astype(int).tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_decay_by_hand() -> None:
    deviation = [0.5, 0.2, 0.25]
    assert match_probability_T(deviation).tolist() == pytest.approx([0.5, 0.4, 0.3])
    assert decay_bound_T(deviation).tolist() == pytest.approx([0.8, 0.64, 0.512])
    assert decay_rate(deviation) == pytest.approx(1 - 0.3 ** (1 / 3))
    assert decay_rate([0.5, 1.0]) == 1
    assert held_T([0.5, 0.4], 4).tolist() == [0.5, 0.4, 0.4, 0.4]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_the_decay_stays_below_its_bound(deviation: list[float]) -> None:
    assert (match_probability_T(deviation) <= decay_bound_T(deviation) + 1e-12).all()


def test_covariances_by_hand() -> None:
    z_NT = [[1.0, 2.0], [3.0, 0.0]]
    assert covariance_TT(z_NT).tolist() == [[2, -2], [-2, 2]]
    # The same along the two axes of one plane: <u_t, u_s> has means 5 and 0, 4; the means are (2, 1) and (1, 0).
    assert bound_T([0.1, 1.0], 2.0).tolist() == pytest.approx([2, 20])
    assert largest_share_of_bound(z_NT, [[1, 0], [0, 0]], 3.0) == pytest.approx(1 / (5 * 9 * 0.5))
    assert largest_share_of_bound([[1.0, 2.0], [1.0, 0.0]], [[1, 1], [1, 0]], 2.0) == 0
    with pytest.raises(ValueError, match="at least 2 rollouts, got 1"):
        inner_covariance_TT([[1.0]], [[1.0]], 1)


def test_sums_by_lag_by_hand() -> None:
    matrix = [[1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 2.0, 3.0], [3.0, 2.0, 1.0, 2.0], [4.0, 3.0, 2.0, 1.0]]
    found = lag_sums(matrix)
    assert found.first_B == [1, 2]
    assert found.sums_B.tolist() == [12, 2 * (3 + 3 + 4)]
    assert found.diagonal == 4
    alone = lag_sums([[2.0]])
    assert (alone.first_B, alone.sums_B.tolist(), alone.diagonal) == ([], [], 2)


def test_growth_by_hand() -> None:
    lengths = [1, 2, 4]
    assert log_slope(lengths)(np.array([3.0, 12.0, 48.0])) == pytest.approx(2)
    assert log_slope(lengths)(np.array([[5.0, 10.0, 20.0], [7.0, 7.0, 7.0]])).tolist() == pytest.approx([1, 0])
    assert clock_slope(np.array([1.0, 100.0, 10_000.0, 1.0, 10.0, 100.0])) == pytest.approx(2)
    assert lengths_between(1, 8, 4) == [1, 2, 4, 8]
    assert lengths_between(2, 3) == [2, 3]
    assert lengths_between(3, 2) == []
    assert horizon([10, 9, 8, 7, 6, 5, 4, 3, 2, 1]) == 2
    assert horizon([4, 9]) == 4


def test_drift_by_hand() -> None:
    """Sums 1 and 3: the product of two different rollouts is 3."""
    assert drift_T([5.0], [4.0], 2).tolist() == [3]
    with pytest.raises(ValueError, match="at least 2 rollouts, got 1"):
        drift_T([1.0], [1.0], 1)


def test_gamma_by_hand() -> None:
    h_DNT = [[[1.0, 2.0], [3.0, 0.0]], [[1.0, -1.0], [0.0, 5.0]]]
    assert gamma_TT(h_DNT).tolist() == [[11 / 4, 1 / 4], [1 / 4, 30 / 4]]
    assert lower_bound_TT([[1.0, 2.0], [2.0, 1.0]], [0.1, 0.2], 1.0).tolist() == [[0.5, 1.5], [1, 0]]
    assert share_above_zero([[9.0, -1.0, 2.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]]) == 0.5
    assert share_above_zero([[1.0, 3.0], [3.0, 1.0]]) == 1
    assert share_above_zero([[1.0]]) == 0.5


def test_scores_of_logits_by_hand() -> None:
    scores = logit_scores_TV(torch.log(torch.tensor([[0.5, 0.25, 0.25]])), torch.tensor([1]))
    assert scores[0].tolist() == pytest.approx([-0.5, 0.75, -0.25])


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=8))
def test_scores_of_logits_are_within_the_bound_and_reach_it(logits: list[float]) -> None:
    """Remark E.7 takes sqrt(V)."""
    for token in range(len(logits)):
        assert logit_scores_TV(torch.tensor([logits]), torch.tensor([token])).norm() <= LOGIT_BOUND + 1e-12
    sure = logit_scores_TV(torch.tensor([[60.0, 0.0]]), torch.tensor([1]))
    assert sure.norm() == pytest.approx(math.sqrt(2))


def test_vectors_over_several_tensors() -> None:
    like = {"a": torch.full((3, 4), 2.0), "b": torch.zeros(5)}
    assert length({"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])}) == 5
    assert unit({"a": torch.tensor([3.0]), "b": torch.tensor([4.0])})["b"].tolist() == pytest.approx([0.8])
    with pytest.raises(ValueError, match="no direction"):
        unit({"a": torch.zeros(2)})
    drawn = gaussian(like, torch.Generator().manual_seed(3))
    assert torch.equal(drawn["b"], gaussian(like, torch.Generator().manual_seed(3))["b"])
    noise = relative_noise(like, 0.01, torch.Generator().manual_seed(3))
    assert torch.allclose(noise["a"], 0.02 * drawn["a"])  # the root mean square of that tensor is 2
    assert not noise["b"].any()
