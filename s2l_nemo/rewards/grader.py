r"""Verifiable rewards: 1 for a right answer, 0 for a wrong one. The answer is the last `\boxed{...}`."""

from __future__ import annotations

import re
from typing import Protocol

from s2l_nemo.config.schema import DataConfig, Task
from s2l_nemo.data.reasoning_gym import ReasoningGymTask
from s2l_nemo.types import Prompt

_BOX_OR_BRACE = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")


class Grader(Protocol):
    """Judges a response. The caller need not know how the answer is found in it, nor how it is verified."""

    def grade(self, prompt: Prompt, response: str) -> float:
        """1.0 where the response's answer is right, else 0.0. `response` is text without special tokens."""
        ...


class ExactMatchGrader:
    """The boxed answer equals the gold answer after `normalize`."""

    def grade(self, prompt: Prompt, response: str) -> float:
        answer = last_boxed(response)
        return float(answer is not None and normalize(answer) == normalize(prompt.answer))


class ReasoningGymGrader:
    """The task's own verifier gives the boxed answer full marks; partial marks count as wrong."""

    def __init__(self, task: ReasoningGymTask) -> None:
        self._task = task

    def grade(self, prompt: Prompt, response: str) -> float:
        answer = last_boxed(response)
        return float(answer is not None and self._task.score(prompt.prompt_id, answer.strip()) >= 1.0)


def make_grader(data: DataConfig) -> Grader:
    """The grader of a data set. Raises UserError where it needs a library that is absent."""
    if data.path is None and data.task is Task.reasoning_gym:
        return ReasoningGymGrader(ReasoningGymTask(data.reasoning_gym))
    return ExactMatchGrader()


def last_boxed(text: str) -> str | None:
    r"""What stands in the `\boxed{...}` that begins last among those whose braces balance; None without one."""
    open_braces: list[tuple[int, bool]] = []  # where the content starts, and whether it is a box
    last: tuple[int, int] | None = None
    for match in _BOX_OR_BRACE.finditer(text):
        token = match.group()
        if token.endswith("{") and token != r"\{":
            open_braces.append((match.end(), token != "{"))
        elif token == "}" and open_braces:
            start, is_box = open_braces.pop()
            if is_box and (last is None or start > last[0]):
                last = start, match.start()
    return None if last is None else text[slice(*last)]


def normalize(answer: str) -> str:
    """An answer without surrounding dollars and spaces, trailing full stop, and commas between thousands."""
    answer = " ".join(answer.split()).strip("$ ").removesuffix(".").strip()
    return answer.replace(",", "") if _THOUSANDS.fullmatch(answer) else answer
