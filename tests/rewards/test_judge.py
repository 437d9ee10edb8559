"""What the reward says about gold answers before anybody answers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from s2l_nemo.config.schema import AnswerKind, RewardsConfig
from s2l_nemo.rewards.judge import GoldJudge


@pytest.fixture(scope="module")
def judge() -> Iterator[GoldJudge]:
    with contextlib.closing(GoldJudge(RewardsConfig(workers=1))) as one:
        yield one


def test_golds_that_cannot_be_read_have_a_reason(judge: GoldJudge) -> None:
    golds = ["4", "1,234.5", r"\frac{1}{2}", "x+1", "(1,2)", "t(0,4]", "Evelyn", "-3"]
    reasons = judge.unreadable(golds)
    assert [gold for gold, reason in zip(golds, reasons, strict=True) if reason is not None] == ["t(0,4]"]
    assert "cannot be read" in str(reasons[5])
    assert judge.unreadable([]) == []


def test_answers_are_the_same_by_value(judge: GoldJudge) -> None:
    pairs = [
        ("4", "4.0"),
        ("1/2", "0.5"),
        (r"\frac{1}{2}", "0.5"),
        ("1,234", "1234"),
        ("x+1", "1+x"),
        ("4", "5"),
        ("(1,2)", "(2,1)"),
        ("A", "B"),
    ]
    assert judge.same(pairs) == [True] * 5 + [False] * 3
    assert judge.same([]) == []


def test_a_gold_that_takes_forever_is_given_up() -> None:
    rewards = RewardsConfig(workers=1, cpu_s=0.001)  # nothing is read in that time
    with contextlib.closing(GoldJudge(rewards)) as judge:
        assert judge.unreadable([r"\frac{x+1}{y}", "7"]) == ["killed after 0.001 s of CPU time", None]


def test_letters_and_texts() -> None:
    with contextlib.closing(GoldJudge(RewardsConfig(answer=AnswerKind.choice))) as judge:
        assert judge.unreadable(["A", "iron"]) == [None, "it is no letter"]
    with contextlib.closing(GoldJudge(RewardsConfig(answer=AnswerKind.exact))) as judge:
        assert judge.unreadable([r"\frac{1}{"]) == [None]
