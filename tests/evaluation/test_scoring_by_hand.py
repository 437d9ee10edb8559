"""Figures of graded rows, some without predictions and some with more samples than others."""

from __future__ import annotations

import pytest

from s2l_nemo.config.asking import Mode
from s2l_nemo.evaluation.raw import RawRow
from s2l_nemo.evaluation.results import BenchmarkResult
from s2l_nemo.evaluation.scoring import Graded, result
from s2l_nemo.measures.statistics import bootstrap_mean
from s2l_nemo.rewards.grader import Grade


def graded() -> Graded:
    """Four problems: 2 of 3 right, no predictions, 0 of 2 right, 2 of 2 right."""
    rows = Graded()
    rows.add(RawRow("a", "q", "1", ["x"] * 3, [1, 2, 3], ["stop", "length", "stop"]),
             [Grade(1.0, "1"), Grade(0.0, "2"), Grade(1.0, "1.")])  # fmt: skip
    rows.add(RawRow("b", "q", "1", [], [], []), [])
    rows.add(RawRow(7, "q", "1", ["x"] * 2, None, None), [Grade(0.5, None), Grade(None, "3", "killed")])
    rows.add(RawRow(8, "q", "1", ["x"] * 2, [4, 6], ["stop", "stop"]), [Grade(1.0, "1"), Grade(1.0, "1")])
    return rows


def figures(seed: int = 7) -> BenchmarkResult:
    return result(graded(), name="n", benchmark="b", mode=Mode.think, max_tokens=9, seed=seed)


def test_what_grading_keeps() -> None:
    assert graded() == Graded(
        ids=["a", "b", 7, 8],
        correct=[[1, 0, 1], [], [0, 0], [1, 1]],
        answers=[["1", "2", "1"], [], [None, "3"], ["1", "1"]],
        tokens=[1, 2, 3, 4, 6],
        truncated=[False, True, False, False, False],
        grader_errors=1,
        why_failed="killed",
    )


def test_figures_by_hand() -> None:
    found = figures()
    assert (found.name, found.benchmark, found.mode, found.max_tokens, found.seed) == ("n", "b", Mode.think, 9, 7)
    assert (found.problems, found.samples, found.most_samples, found.without_predictions) == (4, 2, 3, 1)
    assert found.correct_PK == [[1, 0, 1], [0, 0], [0, 0], [1, 1]]
    assert found.ids == ["a", "b", 7, 8]
    assert found.pass_at_1.mean == pytest.approx((2 / 3 + 0 + 0 + 1) / 4)
    # 2 of 3 right: each pair holds a right one
    assert {k: interval.mean for k, interval in found.pass_at_k.items()} == pytest.approx({1: 5 / 12, 2: 2 / 4})
    assert found.pass_at_1 == found.pass_at_k[1]
    assert found.majority.mean == pytest.approx((1 / 2 + 0 + 0 + 1) / 4)  # "1" and "2" tie among the first two
    assert (found.mean_tokens, found.truncated_fraction) == (16 / 5, 1 / 5)
    assert (found.no_answer_fraction, found.grader_errors) == (1 / 7, 1)


def test_intervals_are_those_of_the_seed() -> None:
    values_P1 = [[2 / 3], [0.0], [0.0], [1.0]]
    assert figures(seed=7).pass_at_1 == pytest.approx(bootstrap_mean(values_P1, seed=7))
    assert figures(seed=7).pass_at_1 != bootstrap_mean(values_P1)
    assert figures(seed=7).majority == pytest.approx(bootstrap_mean([[0.5], [0.0], [0.0], [1.0]], seed=7))


def test_without_counts_there_are_no_means() -> None:
    rows = Graded()
    rows.add(RawRow(0, "q", "1", ["x"], None, None), [Grade(1.0, "1")])
    found = result(rows, name="n", benchmark="b", mode=None, max_tokens=None, seed=1)
    assert (found.mean_tokens, found.truncated_fraction) == (None, None)
    assert (found.samples, list(found.pass_at_k)) == (1, [1])
