"""What the reward of a run says about gold answers, before anybody answers: can they be read, which are the same."""

from __future__ import annotations

import re
from collections.abc import Sequence

from s2l_nemo.config.schema import AnswerKind, RewardsConfig
from s2l_nemo.rewards.golds import unreadable_gold
from s2l_nemo.rewards.grader import GradeItem, answer_grader
from s2l_nemo.rewards.pool import WorkerPool

_PLAIN_NUMBER = re.compile(r"[+-]?(?:\d{1,100}|\d{1,3}(?:,\d{3}){1,30})(?:\.\d{1,100})?")  # needs no reading


class GoldJudge:
    """Judges gold answers of the kind `rewards.answer`, as its grader does: in processes that can be killed."""

    def __init__(self, rewards: RewardsConfig) -> None:
        self._kind = AnswerKind(rewards.answer)
        self._grader = answer_grader(rewards)
        self._pool = WorkerPool(rewards, f"{__name__}:why_no_mathematics", arguments=1)

    def unreadable(self, golds: Sequence[str]) -> list[str | None]:
        """Why no response could be graded against each gold answer; None if one can be."""
        if self._kind is not AnswerKind.math:
            return [unreadable_gold(gold, self._kind) for gold in golds]
        checks = [(gold,) for gold in golds if not _PLAIN_NUMBER.fullmatch(gold)]
        outcomes = dict(zip(checks, self._pool.run(checks), strict=True))
        reasons = {gold: outcome.error or outcome.value for (gold,), outcome in outcomes.items()}
        return [reasons.get(gold) for gold in golds]

    def same(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether one answer of each pair is right where the other is the gold answer. A check that fails: no."""
        items = [
            GradeItem(0, "", gold, rf"\boxed{{{answer}}}") for pair in pairs for gold, answer in (pair, pair[::-1])
        ]
        right = [grade.reward == 1.0 for grade in self._grader.grade(items)]
        return [forth or back for forth, back in zip(right[::2], right[1::2], strict=True)]

    def close(self) -> None:
        """Ends all processes. Idempotent."""
        self._grader.close()
        self._pool.close()


def why_no_mathematics(gold: str) -> str | None:
    """As `unreadable_gold`, for mathematics. Workers call it."""
    return unreadable_gold(gold, AnswerKind.math)
