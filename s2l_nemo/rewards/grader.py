r"""Verifiable rewards: 1 for a right answer, 0 for a wrong one. `rewards.extract` says where the answer stands.

Most answers are decided at once: none is wrong, equal text is right, two plain numbers are compared exactly. The rest
is algebra and runs in worker processes that can be killed. A check that fails or is killed gives a reason, no reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from s2l_nemo.config.schema import AnswerKind, DataConfig, Extract, RewardsConfig, Task
from s2l_nemo.data.golds import final_answer
from s2l_nemo.data.reasoning_gym import ReasoningGymTask
from s2l_nemo.errors import UserError
from s2l_nemo.rewards.answers import normalize_answer
from s2l_nemo.rewards.choices import boxed_letter, extract_choice
from s2l_nemo.rewards.extraction import after_thinking, find_answer
from s2l_nemo.rewards.notation import canonical
from s2l_nemo.rewards.pool import Outcome, WorkerPool
from s2l_nemo.rewards.quick import decide
from s2l_nemo.rewards.worker import not_a_number

_CACHE_SIZE = 100_000
LARGEST = 1e30  # that a reward of a user's function may be; differences and sums of larger ones overflow


@dataclass(frozen=True)
class GradeItem:
    """One response to judge, as text without special tokens."""

    prompt_id: int
    question: str
    gold: str
    response: str


@dataclass(frozen=True)
class Grade:
    """A verdict. If the check itself failed or was killed, `reward` is None and `error` says why in one line."""

    reward: float | None  # 1.0 right, 0.0 wrong, or a custom function's number
    answer: str | None  # as it stands in the response; None if there is none
    error: str | None = None


class Grader(Protocol):
    """Judges responses. The caller need not know how an answer is found, how it is checked, and in which process."""

    def grade(self, items: Sequence[GradeItem]) -> list[Grade]:
        """Grades in the order of the items. A grade depends neither on that order nor on the number of workers."""
        ...

    def close(self) -> None:
        """Ends all processes of the grader. Idempotent."""
        ...


class MathGrader:
    """An answer is right if it is the same mathematics as the gold answer."""

    def __init__(self, rewards: RewardsConfig) -> None:
        self._rewards = rewards
        self._pool = WorkerPool(rewards)
        self._verdicts: dict[tuple[str, str], bool] = {}  # of earlier batches

    def grade(self, items: Sequence[GradeItem]) -> list[Grade]:
        answers = [find_answer(item.response, self._rewards) for item in items]
        golds = {item.gold: canonical(final_answer(item.gold)) for item in items}
        pairs = [
            None if answer is None else (golds[item.gold], canonical(answer))
            for item, answer in zip(items, answers, strict=True)
        ]
        outcomes = self._compared([pair for pair in pairs if pair is not None])
        grades = []
        for answer, pair in zip(answers, pairs, strict=True):
            if pair is None:
                grades.append(Grade(0.0, None))
                continue
            outcome = outcomes[pair]
            reward = None if outcome.error is not None else float(outcome.value)
            grades.append(Grade(reward, answer, outcome.error))
        return grades

    def classes(self, answers: Sequence[str | None]) -> list[int | None]:
        """The same number for answers that are equal, in the order of their first appearance; None stays None.

        So a majority can count values: `1/2`, `0.5` and `\\frac12` are one class. An answer that cannot be compared is
        a class of its own text.
        """
        texts = [None if answer is None else canonical(answer) for answer in answers]
        known = list(dict.fromkeys(text for text in texts if text is not None))
        pairs = [(known[j], known[i]) for i in range(len(known)) for j in range(i)]
        outcomes = self._compared(pairs)
        class_of: dict[str, int] = {}
        for index, text in enumerate(known):
            equals = (class_of[known[j]] for j in range(index) if outcomes[known[j], text].value is True)
            class_of[text] = next(equals, len(set(class_of.values())))
        return [None if text is None else class_of[text] for text in texts]

    def close(self) -> None:
        self._pool.close()

    def _compared(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Outcome]:
        """Outcomes for pairs of gold and answer, by text and numbers where these can tell, else by a worker."""
        # The pairs give the checks their order, because the order of a set of strings differs from process to process.
        decided = {pair: self._decide(pair) for pair in dict.fromkeys(pairs)}
        open_pairs = [pair for pair, verdict in decided.items() if verdict is None]
        outcomes = dict(zip(open_pairs, self._pool.run(open_pairs), strict=True))
        self._remember(outcomes)
        return {pair: outcomes.get(pair) or Outcome(verdict) for pair, verdict in decided.items()}

    def _decide(self, pair: tuple[str, str]) -> bool | None:
        known = self._verdicts.get(pair)
        if known is not None:
            return known
        verdict = decide(*pair)
        return None if verdict is False and self._rewards.tolerance > 0 and pair[1] else verdict

    def _remember(self, outcomes: dict[tuple[str, str], Outcome]) -> None:
        if len(self._verdicts) > _CACHE_SIZE:
            self._verdicts.clear()
        self._verdicts.update({pair: outcome.value for pair, outcome in outcomes.items() if outcome.error is None})


class _Immediate:
    """A grader without processes."""

    def close(self) -> None:
        pass


class ChoiceGrader(_Immediate):
    """Multiple choice: an answer is right if it is the gold letter; see `extract_choice`."""

    def __init__(self, rewards: RewardsConfig) -> None:
        self._rewards = rewards

    def grade(self, items: Sequence[GradeItem]) -> list[Grade]:
        letters = [self._letter(item.response) for item in items]
        return [
            Grade(float(letter is not None and letter == item.gold.strip().upper()), letter)
            for item, letter in zip(items, letters, strict=True)
        ]

    def _letter(self, response: str) -> str | None:
        """`Answer: C` needs no box here, because a box is not what a question with options asks for."""
        if self._rewards.extract is Extract.boxed:
            text = after_thinking(response) if self._rewards.final_only else response
            return None if text is None else extract_choice(text)
        answer = find_answer(response, self._rewards)
        return None if answer is None else boxed_letter(answer)


class ExactGrader(_Immediate):
    """An answer is right if its text is the gold text once both are normalised; see `normalize_answer`."""

    def __init__(self, rewards: RewardsConfig) -> None:
        self._rewards = rewards

    def grade(self, items: Sequence[GradeItem]) -> list[Grade]:
        answers = [find_answer(item.response, self._rewards) for item in items]
        return [
            Grade(float(answer is not None and normalize_answer(answer) == normalize_answer(item.gold)), answer)
            for item, answer in zip(items, answers, strict=True)
        ]


class ReasoningGymGrader(_Immediate):
    """An answer is right if the task's own verifier gives it full marks. Partial marks count as wrong.

    It runs in this process. Verifiers belong to an installed library: they compare text and numbers, and run no code of
    an answer.
    """

    def __init__(self, task: ReasoningGymTask, rewards: RewardsConfig) -> None:
        self._task = task
        self._rewards = rewards

    def grade(self, items: Sequence[GradeItem]) -> list[Grade]:
        answers = [find_answer(item.response, self._rewards) for item in items]
        return [
            Grade(float(answer is not None and self._task.score(item.prompt_id, answer.strip()) >= 1.0), answer)
            for item, answer in zip(items, answers, strict=True)
        ]


class CustomGrader:
    """The reward is what `rewards.fn` returns for (response, gold answer, prompt). Killable workers run it."""

    def __init__(self, rewards: RewardsConfig) -> None:
        """Raises UserError if the function cannot be imported."""
        assert rewards.fn is not None
        self._rewards = rewards
        self._pool = WorkerPool(rewards, rewards.fn)
        self._pool.load()

    def grade(self, items: Sequence[GradeItem]) -> list[Grade]:
        """As `Grader.grade`. A check that returns anything but a finite number has failed."""
        outcomes = self._pool.run([(item.response, item.gold, item.question) for item in items])
        return [
            self._grade(outcome, find_answer(item.response, self._rewards))
            for item, outcome in zip(items, outcomes, strict=True)
        ]

    def close(self) -> None:
        self._pool.close()

    def _grade(self, outcome: Outcome, answer: str | None) -> Grade:
        value = outcome.value
        if outcome.error is not None:
            return Grade(None, answer, outcome.error)
        if not isinstance(value, int | float) or abs(value) > LARGEST:
            return Grade(None, answer, not_a_number(value))
        return Grade(float(value), answer)


def check_any_worked(what: str, failed: int, checks: int, reason: str | None, then: str) -> None:
    """Raises UserError, with the reason of the first failure, if all checks have failed. `then` ends its advice."""
    if checks and failed == checks:
        raise UserError(
            f"{what}: {failed} of {checks} checks failed, the first with {reason!r}: mend what checks (rewards.fn), or "
            f"raise its limits (rewards.cpu_s, wall_s, memory_mb, batch_s), {then}"
        )


def make_grader(data: DataConfig, rewards: RewardsConfig) -> Grader:
    """The grader of a data set. Raises UserError if a function or library that it needs is not there."""
    if rewards.fn is not None:
        return CustomGrader(rewards)
    if data.path is None and data.task is Task.reasoning_gym:
        return ReasoningGymGrader(ReasoningGymTask(data.reasoning_gym), rewards)
    return answer_grader(rewards)


def answer_grader(rewards: RewardsConfig) -> Grader:
    """The grader for `rewards.answer`."""
    if rewards.answer is AnswerKind.choice:
        return ChoiceGrader(rewards)
    return ExactGrader(rewards) if rewards.answer is AnswerKind.exact else MathGrader(rewards)
