"""From sampled tokens to rewards, on one rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from s2l_nemo.rewards.grader import Grade, GradeItem, Grader
from s2l_nemo.types import Completion, Prompt


def graded(completion: Completion, grade: Grade) -> Completion:
    """The completion with its reward. A check that failed is worth 0, and its reason stands beside it."""
    return replace(completion, reward=grade.reward or 0.0, answer=grade.answer, grader_error=grade.error)


@dataclass(frozen=True)
class Grading:
    """Decodes completions and asks the grader what they are worth."""

    decode: Callable[[Sequence[int]], str]
    grader: Grader

    def grades(self, completions: Sequence[Completion], prompts: Sequence[Prompt]) -> list[Grade]:
        """One grade for each completion. `prompts` holds the prompt of every completion."""
        by_id = {prompt.prompt_id: prompt for prompt in prompts}
        return self.grader.grade([self._item(one, by_id[one.prompt_id]) for one in completions])

    def close(self) -> None:
        """Ends the grader's processes."""
        self.grader.close()

    def _item(self, completion: Completion, prompt: Prompt) -> GradeItem:
        return GradeItem(prompt.prompt_id, prompt.text, prompt.answer, self.decode(completion.token_ids.tolist()))
