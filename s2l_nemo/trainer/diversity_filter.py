"""The control of Table 4 takes the explorer's diversity away: it leaves out explorer rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from s2l_nemo.algorithm.groups import mixed_requests, sample_seed
from s2l_nemo.measures.diversity import match_learner_diversity
from s2l_nemo.rewards.answers import normalize_answer
from s2l_nemo.trainer.rollouts import Rollouts
from s2l_nemo.types import Completion, Group, SamplingParams, Source

KEEP_MIN = 2  # fewer have no diversity


@dataclass(frozen=True)
class DiversityFilter:
    """Leaves out explorer rollouts of each group until the rest are no more diverse than the learner's.

    They are compared with as many rollouts of the learner. If the group has fewer of those, the learner samples the
    missing ones, which are used for nothing else. So this control costs rollouts that plain S2L-PO does not.
    """

    rollouts: Rollouts
    sampling: SamplingParams
    run_seed: int

    def __call__(self, groups: Sequence[Group], step: int) -> list[Group]:
        """The same groups, in which the explorer rollouts to leave out are no longer `kept`. Collective."""
        explorer = sum(completion.source is Source.EXPLORER for completion in groups[0].completions)
        if explorer <= KEEP_MIN:
            return list(groups)
        ranks = self.rollouts.ranks
        more = self._more_learner_samples(groups, explorer, step)
        kept: dict[int, list[int]] = {}
        for group in groups[ranks.rank :: ranks.world]:
            own = [completion for completion in group.completions if completion.source is Source.LEARNER]
            reference = [*own, *more[group.prompt.prompt_id]][:explorer]
            seed = sample_seed(self.run_seed, step, group.prompt.prompt_id, 0)
            kept[group.prompt.prompt_id] = _kept(group.completions[:explorer], reference, seed)
        everywhere = {prompt: indices for part in ranks.gather(kept) for prompt, indices in part.items()}
        return [_marked(group, explorer, everywhere[group.prompt.prompt_id]) for group in groups]

    def _more_learner_samples(self, groups: Sequence[Group], explorer: int, step: int) -> dict[int, list[Completion]]:
        """Graded learner samples beside those of the groups, by prompt. Their sample ids follow those of the group."""
        size = len(groups[0].completions)
        prompts = [group.prompt for group in groups]
        missing = max(0, explorer - (size - explorer))
        samples: dict[int, list[Completion]] = {prompt.prompt_id: [] for prompt in prompts}
        if missing:
            _, requests = mixed_requests(prompts, explorer=size, learner=missing, step=step, run_seed=self.run_seed)
            completions = self.rollouts.graded([], requests, self.sampling, prompts)
            for completion in sorted(completions, key=lambda completion: completion.sample_id):
                samples[completion.prompt_id].append(completion)
        return samples


def _kept(explorer: Sequence[Completion], reference: Sequence[Completion], seed: int) -> list[int]:
    tokens = [[completion.token_ids for completion in side] for side in (explorer, reference)]
    answers = [
        [None if completion.answer is None else normalize_answer(completion.answer) for completion in side]
        for side in (explorer, reference)
    ]
    return match_learner_diversity(tokens[0], answers[0], tokens[1], answers[1], KEEP_MIN, seed)


def _marked(group: Group, explorer: int, kept: Sequence[int]) -> Group:
    """The explorer's completions are the first ones of a group."""
    marked = [replace(completion, kept=index in kept) for index, completion in enumerate(group.completions[:explorer])]
    return replace(group, completions=(*marked, *group.completions[explorer:]))
