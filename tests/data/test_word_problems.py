"""Word problems: texts and answers by hand, splits that share nothing, the same problems for a seed."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.config.schema import WordProblems
from s2l_nemo.data.arithmetic import Split
from s2l_nemo.data.word_problems import _NAMES, _THINGS, KINDS, OF_SET, TWO_STEPS, Kind, draw, questions, words
from s2l_nemo.errors import UserError

BY_HAND = ((9, 4), (9, 4), (9, 4), (9, 4), (9, 4), (9, 4), (4, 9), (9, 4, 5), (9, 4, 5))
ANSWERS = (13, 5, 13, 36, 36, 13, 5, 8, 29)


@pytest.mark.parametrize(("kind", "numbers", "answer"), list(zip(KINDS, BY_HAND, ANSWERS, strict=True)))
def test_answers_by_hand(kind: Kind, numbers: tuple[int, ...], answer: int) -> None:
    assert kind.sensible(*numbers)
    assert kind.answer(*numbers) == answer


def shape(text: str) -> tuple[str, ...]:
    """What a problem is without its names and things."""
    return (*re.findall(r"\d+", text), *re.findall(r"buys|gives|more than|box|day|years|dollars|lose|packs", text))


@given(largest=st.integers(5, 9), seed=st.integers(0, 99))
def test_no_problem_is_in_both_splits_or_comes_twice(largest: int, seed: int) -> None:
    train = [shape(text) for text, _ in questions("train", 60, largest, seed)]
    valid = [shape(text) for text, _ in questions("valid", 8, largest, seed)]
    assert len({*train, *valid}) == 68


@given(seed=st.integers(0, 99))
def test_a_seed_decides_and_a_larger_count_adds_at_the_end(seed: int) -> None:
    assert list(questions("train", 50, 20, seed))[:20] == list(questions("train", 20, 20, seed))


def test_answers_are_positive_whole_numbers_and_every_kind_comes() -> None:
    found = list(questions("train", 2000, 12, 1))
    assert all(int(answer) > 0 for _, answer in found)
    of_kind = Counter(shape(text)[-1] for text, _ in found[:450])
    assert sum(of_kind.values()) == 450
    assert min(of_kind.values()) > 25


def test_too_many() -> None:
    with pytest.raises(UserError, match=r"999999 valid prompts asked for, .* raise data\.word_problems\.largest"):
        list(questions("valid", 999999, 10, 1))


def bare(text: str) -> str:
    """A problem without names and things: its kind and its numbers."""
    return re.sub("|".join(_NAMES + _THINGS), "", text)


@given(seed=st.integers(0, 99), kinds=st.sampled_from(sorted(OF_SET.items())))
def test_drawn_training_problems_are_never_held_out(seed: int, kinds: tuple[WordProblems, tuple[Kind, ...]]) -> None:
    rng = random.Random(seed)
    held_out = {bare(text) for text, _ in questions("valid", 60, 9, seed, kinds[1])}
    drawn = [draw(rng, "train", 9, kinds[1]) for _ in range(200)]
    assert not held_out & {bare(problem.question) for problem in drawn}
    assert all(problem.kind.sensible(*problem.numbers) and problem.answer > 0 for problem in drawn)


@pytest.mark.parametrize("kind", TWO_STEPS, ids=lambda kind: kind.text)
def test_every_kind_of_two_steps_names_its_numbers_in_order(kind: Kind) -> None:
    places = re.findall(r"\{([abc])\}", kind.text)
    assert places == ["a", "b", "c"]


@pytest.mark.parametrize("split", ["train", "valid"])
def test_each_kind_of_two_steps_is_about_as_frequent(split: Split) -> None:
    of_kind = Counter(re.sub(r"\d+", "", bare(text)) for text, _ in questions(split, 400, 9, 17, TWO_STEPS))
    assert len(of_kind) == len(TWO_STEPS)
    assert min(of_kind.values()) >= 25  # of 40; standard deviation 6


def test_words_are_those_of_the_texts() -> None:
    known = set(words(TWO_STEPS))
    assert all(set(re.findall("[A-Za-z]+", text)) <= known for text, _ in questions("train", 400, 9, 3, TWO_STEPS))
