"""Word problems: texts and answers by hand, splits that share nothing, the same problems for a seed."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.data.word_problems import KINDS, Kind, questions
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
