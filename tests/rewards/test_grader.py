from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.config.schema import DataConfig
from s2l_nemo.data import arithmetic
from s2l_nemo.rewards.grader import ExactMatchGrader, ReasoningGymGrader, last_boxed, make_grader, normalize
from s2l_nemo.types import Prompt


def prompt(answer: str, prompt_id: int = 0) -> Prompt:
    return Prompt(prompt_id=prompt_id, text="", answer=answer, token_ids=())


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{579}", "579"),
        (r"first \boxed{1}, then \boxed{2}.", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed {5}", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{a\}", None),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{3} and \boxed{4", "3"),
        (r"} \boxed{3}", "3"),
        (r"{ \boxed{3}", "3"),
        (r"\boxed 5", None),
        ("579", None),
        ("", None),
        (r"\boxed{}", ""),
    ],
)
def test_the_last_balanced_box_is_the_answer(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


@given(st.text(alphabet="\\boxed{} 5"))
def test_any_text_has_a_balanced_box_or_none(text: str) -> None:
    content = last_boxed(text)
    assert content is None or f"{{{content}}}" in text


@pytest.mark.parametrize(
    ("left", "right"), [(" 579 ", "579"), ("$579$", "579"), ("579.", "579"), ("1,234,567", "1234567"), ("a  b", "a b")]
)
def test_equal_after_normalisation(left: str, right: str) -> None:
    assert normalize(left) == right


@pytest.mark.parametrize(
    ("left", "right"), [("1,23", "123"), ("5 7", "57"), ("579", "0579"), ("-5", "5"), ("(1,2)", "(12)")]
)
def test_different_after_normalisation(left: str, right: str) -> None:
    assert normalize(left) != normalize(right)


@given(st.tuples(st.integers(100, 999), st.integers(100, 999)), st.integers(0, 2**32))
def test_worked_answers_earn_one_and_slips_nothing(terms: tuple[int, int], seed: int) -> None:
    grader = make_grader(DataConfig())
    question = prompt(arithmetic.answer(terms))
    assert grader.grade(question, arithmetic.worked_answer(terms)) == 1.0
    assert grader.grade(question, arithmetic.slip(random.Random(seed), terms)) == 0.0


def test_an_answer_outside_the_box_or_a_part_of_one_earns_nothing() -> None:
    grader = ExactMatchGrader()
    assert grader.grade(prompt("579"), "579") == 0.0
    assert grader.grade(prompt("579"), r"\boxed{579} \boxed{57}") == 0.0
    assert grader.grade(prompt("579"), r"\boxed{1579}") == 0.0


class ScriptedTask:
    def score(self, row: int, answer: str) -> float:
        return {(4, "full"): 1.0, (4, "partial"): 0.9}.get((row, answer), 0.0)


def test_a_task_verifier_must_give_full_marks_to_the_row_of_the_prompt() -> None:
    grader = ReasoningGymGrader(ScriptedTask())  # type: ignore[arg-type]
    responses = [r"\boxed{ full }", r"\boxed{partial}", "full", r"\boxed{other}"]
    assert [grader.grade(prompt("", 4), response) for response in responses] == [1.0, 0.0, 0.0, 0.0]
    assert grader.grade(prompt("", 5), r"\boxed{full}") == 0.0
