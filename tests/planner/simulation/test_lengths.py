from __future__ import annotations

import random
from dataclasses import replace
from statistics import correlation, mean, stdev

import pytest

from s2l_nemo.errors import UserError
from s2l_nemo.planner.simulation.lengths import Answer, Distribution, Model, NamedLengths, RecordedLengths
from tests.planner.simulation.world import E, L

NAMED = NamedLengths(Distribution.lognormal, 1000, 400, 0.0, 7, 10**6)


def drawn(lengths: NamedLengths, prompts: int = 4000, samples: int = 2) -> list[int]:
    groups = lengths.draw(random.Random(1), prompts, 0, samples)
    return [answer.length for group in groups for answer in group]


def test_a_group_by_hand() -> None:
    fixed = replace(NAMED, kind=Distribution.fixed, mean=5)
    assert fixed.draw(random.Random(0), 2, 1, 1) == [(Answer(p, 0, E, 7, 5), Answer(p, 1, L, 7, 5)) for p in range(2)]


def test_lognormal_has_the_mean_and_the_deviation() -> None:
    lengths = drawn(NAMED)
    assert mean(lengths) == pytest.approx(1000, rel=0.03)
    assert stdev(lengths) == pytest.approx(400, rel=0.05)


def test_exponential_has_the_mean_as_deviation() -> None:
    lengths = drawn(replace(NAMED, kind=Distribution.exponential))
    assert mean(lengths) == pytest.approx(1000, rel=0.03)
    assert stdev(lengths) == pytest.approx(1000, rel=0.05)


def test_lengths_are_cut_and_not_empty() -> None:
    lengths = drawn(replace(NAMED, kind=Distribution.exponential, mean=3, most=4))
    assert set(lengths) == {1, 2, 3, 4}


@pytest.mark.parametrize(("alike", "least", "most"), [(1.0, 0.999, 1.001), (0.5, 0.4, 0.6), (0.0, -0.05, 0.05)])
def test_answers_to_one_prompt_are_alike(alike: float, least: float, most: float) -> None:
    pairs = [(a.length, b.length) for a, b in replace(NAMED, alike=alike).draw(random.Random(2), 4000, 0, 2)]
    first, second = zip(*pairs, strict=True)
    assert least <= correlation(first, second) <= most


RECORDED = RecordedLengths([{E: (10, 11), L: (20, 21)}, {E: (), L: (30,)}, {E: (90,), L: ()}], 7, 80)


def test_recorded_lengths_stay_with_their_prompt() -> None:
    groups = RECORDED.draw(random.Random(3), 300, 2, 2)
    for group in groups:
        lengths = {model: {answer.length for answer in group if answer.model is model} for model in Model}
        assert lengths[E] <= {10, 11} or lengths[E] == {80}  # 90 is cut
        assert lengths[L] <= {20, 21} or lengths[L] == {30}
    assert {answer.length for group in groups for answer in group} == {10, 11, 20, 21, 30, 80}


def test_lengths_that_nobody_has_recorded() -> None:
    alone = replace(RECORDED, groups=[{E: (), L: (30,)}])
    assert len(alone.draw(random.Random(0), 2, 0, 3)) == 2
    with pytest.raises(UserError, match="no answer of the explorer is recorded, and 1 of each group"):
        alone.draw(random.Random(0), 2, 1, 3)
