"""Shares of all ranks: each samples and grades its own, then every rank has every completion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from s2l_nemo.algorithm.groups import share
from s2l_nemo.rewards.grader import GradeItem, Grader
from s2l_nemo.types import Completion, Prompt, SampleRequest


@dataclass(frozen=True)
class Sampler:
    """Which rank samples and grades what. `leaders` are the ranks that speak to engines: all where each has its own."""

    rank: int
    world: int
    leaders: tuple[int, ...]
    decode: Callable[[Sequence[int]], str]
    grader: Grader

    def share(self, requests: Sequence[SampleRequest]) -> list[SampleRequest]:
        """What this rank has sampled: whole prompts, as many as any other leader's; nothing where it is none."""
        if self.rank not in self.leaders:
            return []
        return share(requests, self.leaders.index(self.rank), len(self.leaders))

    def grade(self, completions: Iterable[Completion], prompts: Mapping[int, Prompt]) -> list[Completion]:
        """The same completions with their rewards; a check that failed is worth 0."""
        graded = list(completions)
        items = [
            GradeItem(prompt.prompt_id, prompt.text, prompt.answer, self.decode(completion.token_ids))
            for completion in graded
            for prompt in [prompts[completion.prompt_id]]
        ]
        grades = self.grader.grade(items)
        return [
            replace(completion, reward=grade.reward or 0.0, answer=grade.answer, grader_error=grade.error)
            for completion, grade in zip(graded, grades, strict=True)
        ]

    def exchange(self, completions: list[Completion]) -> list[Completion]:
        """The completions of all ranks, the same list on every rank. Collective."""
        return [completion for part in self.gather(completions) for completion in part]

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order, on every rank. Collective."""
        gathered: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(gathered, value)
        return gathered
