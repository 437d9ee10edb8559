"""Brings completions to the ranks that train on them.

Tokens and log-probs of a completion go to one replica. All other ranks know a few figures of it (`StepGroups`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch

from s2l_nemo.trainer.ranks import Ranks, Words
from s2l_nemo.types import Completion, FinishReason, Group, Prompt

Facts = npt.NDArray[np.int64]
Place = Callable[[Sequence[int]], Sequence[int]]  # from the tokens of each group to the replica that trains on it

_FINISH: tuple[FinishReason, ...] = get_args(FinishReason)
_PROMPT, _LENGTH = 0, 3  # columns of `_facts`


@dataclass(frozen=True)
class StepGroups:
    """The P groups of a step: whole ones of this replica, and figures of all completions."""

    own: Mapping[int, Group]  # by their place among the P
    holder_P: tuple[int, ...]  # a rank that has the group
    source_PG: torch.Tensor  # int64, see `Source`
    length_PG: torch.Tensor  # int64, response tokens
    truncated_PG: torch.Tensor  # bool, cut at the length limit
    reward_PG: torch.Tensor  # float64
    failed_PG: torch.Tensor  # bool, the check failed
    answered_PG: torch.Tensor  # bool, the grader found an answer
    kept_PG: torch.Tensor  # bool, trained on
    why_failed: str | None = None  # the reason of the first check that failed

    @classmethod
    def gather(cls, ranks: Ranks, prompts: Sequence[Prompt], groups: Sequence[Group]) -> StepGroups:
        """`groups` are those of this replica, with rewards. Collective.

        Raises RuntimeError if a prompt has no group.
        """
        place = {prompt.prompt_id: p for p, prompt in enumerate(prompts)}
        own = {place[group.prompt.prompt_id]: group for group in groups}
        speaks = ranks.rank == ranks.members(ranks.replica)[0]
        parts = ranks.gather({p: (_figures(it), _why_failed(it)) for p, it in own.items()} if speaks else {})
        holders = {p: rank for rank, part in enumerate(parts) for p in part}
        figures = {p: figures_7G for part in parts for p, (figures_7G, _) in part.items()}
        reasons = {p: reason for part in parts for p, (_, reason) in part.items() if reason is not None}
        for p, prompt in enumerate(prompts):
            if p not in figures:
                raise RuntimeError(f"prompt {prompt.prompt_id} has no completions")
        figures_7PG = torch.from_numpy(np.stack([figures[p] for p in range(len(prompts))], axis=1))
        source_PG, length_PG, truncated_PG, reward_PG, failed_PG, answered_PG, kept_PG = figures_7PG
        return cls(
            own=own,
            holder_P=tuple(holders[p] for p in range(len(prompts))),
            source_PG=source_PG.long(),
            length_PG=length_PG.long(),
            truncated_PG=truncated_PG.bool(),
            reward_PG=reward_PG,
            failed_PG=failed_PG.bool(),
            answered_PG=answered_PG.bool(),
            kept_PG=kept_PG.bool(),
            why_failed=reasons[min(reasons)] if reasons else None,
        )

    def beside(self, others: StepGroups) -> StepGroups:
        """The groups of the same prompts side by side. The samples of `others` are numbered behind these."""
        size = self.source_PG.size(1)

        def moved(group: Group) -> tuple[Completion, ...]:
            return tuple(replace(one, sample_id=one.sample_id + size) for one in group.completions)

        own = {p: replace(it, completions=(*it.completions, *moved(others.own[p]))) for p, it in self.own.items()}
        assert self.holder_P == others.holder_P, "the replicas have other groups"
        tensors = {
            name: torch.cat([getattr(self, name), getattr(others, name)], dim=1)
            for name in ("source_PG", "length_PG", "truncated_PG", "reward_PG", "failed_PG", "answered_PG", "kept_PG")
        }
        why_failed = self.why_failed or others.why_failed
        return StepGroups(own=own, holder_P=self.holder_P, why_failed=why_failed, **tensors)

    def without_failed(self) -> StepGroups:
        """These groups, in which nothing is `kept` of one with a check that failed: nobody knows its mean reward."""
        failed_P = self.failed_PG.any(dim=1)
        own = {
            p: replace(group, completions=tuple(replace(one, kept=False) for one in group.completions))
            if failed_P[p]
            else group
            for p, group in self.own.items()
        }
        return replace(self, own=own, kept_PG=self.kept_PG & ~failed_P[:, None])

    def with_others(self, taken: Mapping[int, int], others: StepGroups) -> StepGroups:
        """These groups with group `taken[p]` of `others` in place p, for every p that is there. Both have G samples."""
        places, indices = list(taken), list(taken.values())

        def replaced(mine_PG: torch.Tensor, its_PG: torch.Tensor) -> torch.Tensor:
            whole_PG = mine_PG.clone()
            whole_PG[places] = its_PG[indices]
            return whole_PG

        own = {p: others.own[taken[p]] if p in taken else group for p, group in self.own.items()}
        return StepGroups(
            own=own,
            holder_P=tuple(others.holder_P[taken[p]] if p in taken else it for p, it in enumerate(self.holder_P)),
            source_PG=replaced(self.source_PG, others.source_PG),
            length_PG=replaced(self.length_PG, others.length_PG),
            truncated_PG=replaced(self.truncated_PG, others.truncated_PG),
            reward_PG=replaced(self.reward_PG, others.reward_PG),
            failed_PG=replaced(self.failed_PG, others.failed_PG),
            answered_PG=replaced(self.answered_PG, others.answered_PG),
            kept_PG=replaced(self.kept_PG, others.kept_PG),
            why_failed=self.why_failed or others.why_failed,
        )


def deliver(
    ranks: Ranks, sampled: Sequence[Completion], prompts: Sequence[Prompt], place: Place
) -> tuple[list[Prompt], list[Completion]]:
    """The prompts of this replica's groups, and their completions, whoever has sampled them. Collective.

    `sampled` are the completions of this rank. Raises RuntimeError for one of a prompt that is not among `prompts`.
    """
    facts = ranks.gather(_facts(sampled))
    replica_of = _placed(prompts, facts, place)

    def of(replica: int) -> list[Completion]:
        return [completion for completion in sampled if replica_of[completion.prompt_id] == replica]

    sent: dict[int, Words] = {}
    for replica in sorted(set(ranks.replica_of)):
        others = [rank for rank in ranks.members(replica) if rank != ranks.rank]
        if others and (leaving := of(replica)):
            sent |= dict.fromkeys(others, _packed(leaving))
    own = [prompt for prompt in prompts if replica_of[prompt.prompt_id] == ranks.replica]
    coming = [rows[np.isin(rows[:, _PROMPT], [prompt.prompt_id for prompt in own])] for rows in facts]
    sizes = {
        rank: 2 * int(rows[:, _LENGTH].sum()) for rank, rows in enumerate(coming) if len(rows) and rank != ranks.rank
    }
    received = ranks.swap(sent, sizes)
    completions = []
    for rank, rows in enumerate(coming):
        completions += of(ranks.replica) if rank == ranks.rank else _unpacked(rows, received.get(rank))
    return own, completions


def _facts(completions: Sequence[Completion]) -> Facts:
    """[n, 6]: prompt, sample, source, tokens, finish reason, weight version."""
    rows = [
        (c.prompt_id, c.sample_id, c.source, len(c.token_ids), _FINISH.index(c.finish_reason), c.weight_version)
        for c in completions
    ]
    return np.array(rows, np.int64).reshape(len(rows), 6)


def _placed(prompts: Sequence[Prompt], facts: Sequence[Facts], place: Place) -> dict[int, int]:
    """The replica of each prompt's group."""
    tokens = {prompt.prompt_id: len(prompt.token_ids) for prompt in prompts}
    for rows in facts:
        for prompt_id, length in rows[:, [_PROMPT, _LENGTH]].tolist():
            if prompt_id not in tokens:
                raise RuntimeError(f"prompt {prompt_id} was not asked for")
            tokens[prompt_id] += length
    return dict(zip(tokens, place(list(tokens.values())), strict=True))


def _packed(completions: Sequence[Completion]) -> Words:
    """The tokens of all completions, then their log-probs, bit for bit."""
    arrays = [completion.token_ids for completion in completions]
    return np.concatenate([*arrays, *(completion.logprobs.view(np.int32) for completion in completions)])


def _unpacked(rows: Facts, words: Words | None) -> list[Completion]:
    """Views of what `_packed` has made of the completions with these facts."""
    if words is None:
        return []
    tokens, logprobs = words[: len(words) // 2], words[len(words) // 2 :].view(np.float32)
    ends = rows[:, _LENGTH].cumsum()[:-1]
    pieces = zip(np.split(tokens, ends), np.split(logprobs, ends), strict=True)
    return [
        Completion(prompt, sample, source, token_ids, its_logprobs, _FINISH[finish], version)
        for (prompt, sample, source, _, finish, version), (token_ids, its_logprobs) in zip(
            rows.tolist(), pieces, strict=True
        )
    ]


def _figures(group: Group) -> npt.NDArray[np.float64]:
    """[7, G], in the order of the tensors of `StepGroups`."""
    completions = group.completions
    return np.array(
        [
            [completion.source for completion in completions],
            [len(completion.token_ids) for completion in completions],
            [completion.finish_reason == "length" for completion in completions],
            group.rewards_G(),
            [completion.grader_error is not None for completion in completions],
            [completion.answer is not None for completion in completions],
            group.kept_G(),
        ],
        np.float64,
    )


def _why_failed(group: Group) -> str | None:
    """The reason of its first check that failed."""
    return next((one.grader_error for one in group.completions if one.grader_error is not None), None)
