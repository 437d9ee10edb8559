from __future__ import annotations

import random
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.data import arithmetic
from s2l_nemo.errors import UserError

terms_strategy = st.integers(1, 4).flatmap(
    lambda digits: st.lists(st.integers(10 ** (digits - 1), 10**digits - 1), min_size=2, max_size=12).map(tuple)
)


def test_worked_answer_of_one_sum_by_hand() -> None:
    assert arithmetic.question_text((278, 345)) == "What is 278 + 345?"
    assert arithmetic.worked_answer((278, 345)) == "8+5=13\n7+4+1=12\n2+3+1=6\n\\boxed{623}"
    assert arithmetic.worked_answer((900, 200)) == "0+0=0\n0+0=0\n9+2=11\n\\boxed{1100}"


@given(terms_strategy)
def test_every_line_of_a_worked_answer_is_true_and_the_last_is_the_sum(terms: tuple[int, ...]) -> None:
    *steps, last = arithmetic.worked_answer(terms).split("\n")
    for step in steps:
        addends, total = step.split("=")
        assert sum(map(int, addends.split("+"))) == int(total)
    assert last == rf"\boxed{{{sum(terms)}}}" == rf"\boxed{{{arithmetic.answer(terms)}}}"


@given(terms_strategy, st.integers(0, 2**32))
def test_a_slip_has_one_wrong_line_and_a_final_answer_that_follows_from_the_lines(
    terms: tuple[int, ...], seed: int
) -> None:
    *steps, last = arithmetic.slip(random.Random(seed), terms).split("\n")
    totals = [step.split("=")[1] for step in steps]
    wrong = [step for step in steps if sum(map(int, step.split("=")[0].split("+"))) != int(step.split("=")[1])]
    assert len(wrong) == 1
    stated = int(totals[-1] + "".join(total[-1] for total in reversed(totals[:-1])))
    assert last == rf"\boxed{{{stated}}}"
    assert stated != sum(terms)


def test_slips_reach_every_column() -> None:
    rng = random.Random(0)
    right = arithmetic.worked_answer((123, 456)).split("\n")
    columns = set()
    for _ in range(50):
        lines = arithmetic.slip(rng, (123, 456)).split("\n")
        columns |= {column for column in range(3) if lines[column] != right[column]}
    assert columns == {0, 1, 2}


@pytest.mark.parametrize(("digits", "terms"), [(1, 2), (2, 2), (1, 3)])
def test_the_splits_hold_every_question_of_the_space_exactly_once(digits: int, terms: int) -> None:
    splits = {
        split: list(arithmetic.questions(split, arithmetic.split_size(split, digits, terms), digits, terms, seed=3))
        for split in ("train", "valid")
    }
    everything = splits["train"] + splits["valid"]
    assert len(set(everything)) == len(everything) == (9 * 10 ** (digits - 1)) ** terms
    assert all(len(str(term)) == digits for question in everything for term in question)
    assert len(splits["valid"]) == len(everything) // 8


def test_questions_depend_on_the_seed_and_a_longer_set_begins_with_the_shorter() -> None:
    short = list(arithmetic.questions("train", 50, 3, 2, seed=1))
    assert list(islice(arithmetic.questions("train", 500, 3, 2, seed=1), 50)) == short
    assert list(arithmetic.questions("train", 50, 3, 2, seed=2)) != short


def test_drawn_training_questions_are_never_held_out() -> None:
    rng = random.Random(0)
    held_out = set(arithmetic.questions("valid", arithmetic.split_size("valid", 2, 2), 2, 2, seed=0))
    assert not held_out & {arithmetic.draw(rng, "train", 2, 2) for _ in range(5000)}


def test_asking_for_more_questions_than_exist_names_the_number() -> None:
    with pytest.raises(UserError, match="11 valid prompts asked for, but there are only 10"):
        list(arithmetic.questions("valid", 11, 1, 2, seed=0))
