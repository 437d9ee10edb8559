from __future__ import annotations

import pytest

from s2l_nemo.config.schema import AnswerKind
from s2l_nemo.rewards.golds import unreadable_gold


@pytest.mark.parametrize(
    "gold",
    [
        "5",
        "x=5",
        r"(3,\frac{1}{2})",
        r"x\in[-2,7]",
        r"\begin{pmatrix}1\\2\end{pmatrix}",
        r"15\mbox{ cm}^2",
        "Evelyn",
        "No two of them can be in the same group",
        "52_8",
        "f(2)<f(1)",
    ],
)
def test_a_good_gold_has_no_reason(gold: str) -> None:
    assert unreadable_gold(gold, AnswerKind.math) is None


@pytest.mark.parametrize(
    ("gold", "reason"),
    [
        (" ", "it is empty"),
        (r"\frac{1}{", "cannot be read as mathematics"),
        ("t(0,4]", "cannot be read as mathematics"),
        (r"(1, \sqrt{)", "cannot be read as mathematics"),
        (r"9^{9^{9^9}}", "too large to compute"),
        ("$.$", "not equal to itself"),
    ],
)
def test_a_gold_that_nothing_equals_has_a_reason(gold: str, reason: str) -> None:
    found = unreadable_gold(gold, AnswerKind.math)
    assert found is not None
    assert reason in found


def test_letters_and_literal_text() -> None:
    assert [unreadable_gold(gold, AnswerKind.choice) for gold in ("C", "c", "bank", "")] == [
        None,
        None,
        "it is no letter",
        "it is empty",
    ]
    assert unreadable_gold(r"\frac{1}{", AnswerKind.exact) is None
