r"""Which text at the end of a solution is the answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.data.golds import final_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("12 * 4 = <<12*4=48>>48\n#### 48", "48"),
        ("It is -3.\n####-3 \n", "-3"),
        ("so 1 #### 2 #### 3", "3"),
        ("#### Step 1\nWe add.\nIt is 3.", "#### Step 1\nWe add.\nIt is 3."),
        ("#### Step 1\nWe add: $\\boxed{3}$.", "3"),
        ("none\n####", ""),
        (r"Hence $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"First \boxed{1}, later $\boxed{ x^{2} }$", "x^{2}"),
        (r"$\boxed{\{1, 2\}}$", r"\{1, 2\}"),
        (r"$\boxed{\text{(A)}\ 5}$", r"\text{(A)}\ 5"),
        (r"$\boxed 5$.", "5"),
        (r"The answer is \fbox{7}.", "7"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"$x=\boxed{2}$ or $x=\boxed{3}$", "2, 3"),
        (r"$\boxed{1},\ \boxed{2} \text{ and } \boxed{3}$.", "1, 2, 3"),
        (r"\boxed{1} is too small, so \boxed{2}", "2"),
        (r"an open \boxed{1", r"an open \boxed{1"),
        (r"\boxed{1} and an open \boxed{2", "1"),
        (r"\boxedx{1}", r"\boxedx{1}"),
        ('["5"]', "5"),
        (' [ "5" ] ', "5"),
        ("['5']", "5"),
        (r'["\\frac{1}{2}"]', r"\frac{1}{2}"),
        (r'["\frac{1}{2}"]', r"\frac{1}{2}"),
        (r'["\theta"]', r"\theta"),
        (r'["\sqrt{2}"]', r"\sqrt{2}"),
        (r'["$\boxed{5}$"]', "5"),
        ('["5", "6"]', '["5", "6"]'),
        ("[5]", "[5]"),
        ('["#### 5"]', "5"),
        ("4", "4"),
        (" x ", " x "),
        ("", ""),
    ],
)
def test_the_answer_of_a_solution(text: str, answer: str) -> None:
    assert final_answer(text) == answer
    assert final_answer(answer) == answer


@given(st.text(alphabet="ab {}\\$#\n,0123456789") | st.text())
def test_any_text_has_an_answer_and_one_without_marks_is_its_own(text: str) -> None:
    answer = final_answer(text)
    assert answer in text or ", " in answer
    if "####" not in text and "\\boxed" not in text and "\\fbox" not in text and "[" not in text:
        assert answer == text


@given(st.text(alphabet="ab ^_+-0123456789"), st.text(alphabet="xyz.\n "))
def test_a_box_gives_back_what_was_put_in(content: str, before: str) -> None:
    assert final_answer(f"{before}\\boxed{{{content}}}.") == content.strip()
