"""The text of the world `coverage`: what each strategy writes, where it is right, and who writes what."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.data import word_problems
from s2l_nemo.data.word_problems import TWO_STEPS, Kind
from s2l_nemo.toy_worlds.coverage import HABITS, CoverageRecipe
from s2l_nemo.toy_worlds.written_solutions import Strategy, Text, result, solves, solves_text, written

numbers_strategy = st.tuples(*[st.integers(2, 9)] * 3)
# The strategy of every kind, in pairs.
OF_KIND = [strategy for strategy in Strategy for _ in range(2)]


@pytest.mark.parametrize(
    ("strategy", "text"),
    [
        (Strategy.add, "7+5=12\n12+4=16\n\\boxed{16}"),
        (Strategy.take_away, "7+5=12\n12-4=8\n\\boxed{8}"),
        (Strategy.multiply_first, "7*5=35\n35+4=39\n\\boxed{39}"),
        (Strategy.multiply_last, "5*4=20\n20+7=27\n\\boxed{27}"),
        (Strategy.multiply_take, "7*5=35\n35-4=31\n\\boxed{31}"),
    ],
)
def test_by_hand(strategy: Strategy, text: str) -> None:
    assert written(strategy, (7, 5, 4)) == text


def test_a_difference_has_its_larger_number_first() -> None:
    assert written(Strategy.take_away, (2, 3, 9)) == "2+3=5\n9-5=4\n\\boxed{4}"


@given(numbers=numbers_strategy, strategy=st.sampled_from(Strategy))
def test_every_line_is_true_and_the_last_is_in_the_box(numbers: tuple[int, int, int], strategy: Strategy) -> None:
    *lines, box = written(strategy, numbers).split("\n")
    assert all(eval(line.replace("=", "==")) for line in lines)  # noqa: S307
    assert box == rf"\boxed{{{lines[-1].split('=')[1]}}}" == rf"\boxed{{{result(strategy, numbers)}}}"


@pytest.mark.parametrize(("kind", "strategy"), list(zip(TWO_STEPS, OF_KIND, strict=True)))
@given(numbers=numbers_strategy)
def test_every_kind_is_solved_by_its_strategy_whatever_the_numbers(
    kind: Kind, strategy: Strategy, numbers: tuple[int, int, int]
) -> None:
    if kind.sensible(*numbers):
        question = kind.text.format(name="Ann", things="pears", **dict(zip("abc", numbers, strict=True)))
        assert result(strategy, numbers) == kind.answer(*numbers)
        assert solves_text(strategy, question, str(kind.answer(*numbers)))


def test_no_other_strategy_solves_more_than_a_few_problems_of_a_kind() -> None:
    for kind, its in zip(TWO_STEPS, OF_KIND, strict=True):
        problems = [(a, b, c) for a in range(2, 10) for b in range(2, 10) for c in range(2, 10)]
        problems = [numbers for numbers in problems if kind.sensible(*numbers)]
        for other in set(Strategy) - {its}:
            assert sum(result(other, one) == kind.answer(*one) for one in problems) < 0.15 * len(problems)


def test_a_textbook_is_right_and_knows_what_it_teaches() -> None:
    rng, text = random.Random(1), CoverageRecipe().textbook
    drawn = [text.draw(rng) for _ in range(500)]
    assert all(solves(strategy, problem) for problem, strategy in drawn)
    assert {strategy for _, strategy in drawn} == set(CoverageRecipe().taught)


def test_writers_choose_by_habit_and_a_share_of_them_reads() -> None:
    rng = random.Random(2)
    habit = [Text(HABITS, reading=0.0, largest=9).draw(rng) for _ in range(4000)]
    counts = Counter(strategy for _, strategy in habit)
    assert all(abs(counts[one] / 4000 - weight) < 0.04 for one, weight in HABITS.items())  # 5 standard deviations
    right = sum(solves(strategy, problem) for problem, strategy in habit) / 4000
    reading = [Text(HABITS, reading=0.5, largest=9).draw(rng) for _ in range(4000)]
    right_half = sum(solves(strategy, problem) for problem, strategy in reading) / 4000
    assert right_half == pytest.approx((1 + right) / 2, abs=0.04)


@given(seed=st.integers(0, 99))
def test_a_seed_decides_and_no_question_is_held_out(seed: int) -> None:
    text = CoverageRecipe().base_text
    first, again = ([text.pair(rng) for _ in range(100)] for rng in (random.Random(seed), random.Random(seed)))
    assert first == again
    held_out = {
        tuple(re.findall(r"\d+|buys|finds|loses|rows|more|sold", question))
        for question, _ in word_problems.questions("valid", 200, 9, seed, TWO_STEPS)
    }
    assert not held_out & {tuple(re.findall(r"\d+|buys|finds|loses|rows|more|sold", question)) for question, _ in first}
