r"""Where an answer stands, by every value of `rewards.extract` and of the keys beside it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.config.schema import AnswerKind, CutBox, Extract, RewardsConfig, SeveralBoxes
from s2l_nemo.rewards.extraction import find_answer
from s2l_nemo.rewards.grader import GradeItem, answer_grader

RESPONSES = {
    "box": r"So 3, that is \boxed{\frac{1}{2}}.",
    "line": "Some work.\n**Final Answer:** 42\n",
    "hashes": "16 - 7 = 9\n#### 9",
    "tag": r"<answer> $\boxed{7}$ </answer>",
    "several": r"\boxed{3}, then <answer>4</answer>" + "\n#### 5\nAnswer: 6",
    "none": "I do not know.\n\nNothing",
    "fraction": r"It is \frac{1}{2} or 3",
}


@pytest.mark.parametrize(
    ("extract", "found"),
    [
        (Extract.boxed, [r"\frac{1}{2}", None, None, "7", "3", None, None]),
        (Extract.answer_line, [None, "42", None, None, "6", None, None]),
        (Extract.hashes, [None, None, "9", None, "5", None, None]),
        (Extract.tag, [None, None, None, "7", "4", None, None]),
        (Extract.anywhere, [r"\frac{1}{2}", "42", "9", "7", "3", None, None]),
        # The released pattern stops at the first closing brace.
        (Extract.released, [r"\frac{1", "** 42", "9", "7", "3", "Nothing", r"\frac{1}{2}"]),
    ],
)
def test_every_place(extract: Extract, found: list[str | None]) -> None:
    assert [find_answer(text, RewardsConfig(extract=extract)) for text in RESPONSES.values()] == found


@pytest.mark.parametrize("extract", list(Extract))
@given(st.text(alphabet="\\boxed{}<answer>/think#: 12\n"))
def test_any_text_has_an_answer_or_none(extract: Extract, text: str) -> None:
    answer = find_answer(text, RewardsConfig(extract=extract))
    assert answer is None or answer.strip() in text


@pytest.mark.parametrize(
    ("response", "everywhere", "final"),
    [
        (r"<think>\boxed{1}</think> So \boxed{2}", "2", "2"),
        (r"<think>\boxed{1}</think> So two", "1", None),
        (r"<think>\boxed{1}", "1", None),
        (r"\boxed{1}", "1", None),
        (r"a</think>\boxed{1}</think>", "1", None),
    ],
)
def test_only_what_follows_the_thinking(response: str, everywhere: str, final: str | None) -> None:
    assert find_answer(response, RewardsConfig()) == everywhere
    assert find_answer(response, RewardsConfig(final_only=True)) == final


def test_a_box_that_is_still_open_at_the_end() -> None:
    response = r"First \boxed{1}, but then \boxed{2 and so"
    assert find_answer(response, RewardsConfig()) == "1"
    assert find_answer(response, RewardsConfig(cut_box=CutBox.no_answer)) is None
    assert find_answer(r"\boxed{1} with {a brace", RewardsConfig(cut_box=CutBox.no_answer)) == "1"


@pytest.mark.parametrize(
    ("response", "joined"),
    [
        (r"\boxed{3}, \boxed{4}", "3, 4"),
        (r"$\boxed{3}$ and $\boxed{4}$", "3, 4"),
        (r"\boxed{3}\text{ or }\boxed{4}, \boxed{5}.", "3, 4, 5"),
        (r"\boxed{3} is wrong, so \boxed{4}", "4"),
        (r"\boxed{1}. Later: \boxed{3}, \boxed{4}", "3, 4"),
        (r"\boxed{\boxed{3}}", "3"),
        ("none", None),
    ],
)
def test_boxes_side_by_side(response: str, joined: str | None) -> None:
    assert find_answer(response, RewardsConfig(several_boxes=SeveralBoxes.joined)) == joined


def test_letters_are_looked_for_where_the_keys_say() -> None:
    def graded(response: str, **keys: object) -> float | None:
        rewards = RewardsConfig(answer=AnswerKind.choice, **keys)  # type: ignore[arg-type]
        return answer_grader(rewards).grade([GradeItem(0, "", "C", response)])[0].reward

    assert graded("#### C", extract=Extract.hashes) == 1.0
    assert graded("Answer: C", extract=Extract.hashes) == 0.0
    assert graded("<answer>(C) a bank</answer>", extract=Extract.tag) == 1.0
    assert graded("<think>Answer: C", final_only=True) == 0.0
    assert graded("<think>Answer: B</think> Answer: C", final_only=True) == 1.0


@pytest.mark.parametrize(
    ("answer", "gold", "reward"),
    [
        ("3.14", r"\pi", 1.0),
        ("3.2", r"\pi", 0.0),
        (r"\pi", "3.14", 1.0),
        ("0.333", r"\frac{1}{3}", 1.0),
        ("101", "100", 0.0),  # whole numbers are exact
        (r"\frac{101}{100}", "1", 0.0),
        (r"0.67 \text{ cm}", r"\frac{2}{3}\text{ m}", 0.0),
        ("3.14, 1", r"\pi, 1", 0.0),
        ("0.0001", "0", 0.0),
    ],
)
def test_a_decimal_may_be_near(answer: str, gold: str, reward: float) -> None:
    grader = answer_grader(RewardsConfig(tolerance=0.01))
    assert grader.grade([GradeItem(0, "", gold, rf"\boxed{{{answer}}}")])[0].reward == reward
    grader.close()
