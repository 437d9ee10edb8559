"""From sampled tokens to rewards, on one rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from s2l_nemo.rewards.grader import GradeItem, Grader
from s2l_nemo.types import Completion, Prompt


@dataclass(frozen=True)
class Grading:
    """Decodes completions and asks the grader what they are worth."""

    decode: Callable[[Sequence[int]], str]
    grader: Grader

    def __call__(self, completions: Sequence[Completion], prompts: Sequence[Prompt]) -> list[Completion]:
        """The same completions with rewards. A check that failed is worth 0, and its reason stands beside it.

        `prompts` holds the prompt of every completion.
        """
        by_id = {prompt.prompt_id: prompt for prompt in prompts}
        grades = self.grader.grade([self._item(one, by_id[one.prompt_id]) for one in completions])
        return [
            replace(one, reward=grade.reward or 0.0, answer=grade.answer, grader_error=grade.error)
            for one, grade in zip(completions, grades, strict=True)
        ]

    def close(self) -> None:
        """Ends the grader's processes."""
        self.grader.close()

    def _item(self, completion: Completion, prompt: Prompt) -> GradeItem:
        return GradeItem(prompt.prompt_id, prompt.text, prompt.answer, self.decode(completion.token_ids))
