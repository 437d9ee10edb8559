"""From sampled tokens to rewards, on one rank, and what becomes of checks that fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from s2l_nemo.rewards.grader import Grade, GradeItem, Grader, check_any_worked
from s2l_nemo.trainer.exchange import StepGroups
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


def check_graded(what: str, groups: StepGroups) -> None:
    """Raises UserError on every rank if not one check of the groups worked: all rewards would be 0, and none is."""
    failed = int(groups.failed_PG.sum().item())
    then = "then run the same command, with run.allow_changed=[reward] if the run has begun with another rewards.fn"
    check_any_worked(what, failed, groups.failed_PG.numel(), groups.why_failed, then)
