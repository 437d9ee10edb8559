"""The control of Table 4 takes the explorer's diversity away: it leaves out explorer rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from s2l_nemo.algorithm.groups import explorers_first, requests_of, sample_seed
from s2l_nemo.measures.diversity import match_learner_diversity
from s2l_nemo.rewards.answers import normalize_answer
from s2l_nemo.trainer.exchange import StepGroups
from s2l_nemo.trainer.progress import Progress
from s2l_nemo.trainer.rollouts import Ask, Rollouts
from s2l_nemo.trainer.spent import Shapes, count_sampled
from s2l_nemo.types import Completion, Group, Prompt, SamplingParams, Source

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
    progress: Progress
    shapes: Shapes  # of the models that sample

    def __call__(self, groups: StepGroups, prompts: Sequence[Prompt], step: int) -> StepGroups:
        """The same groups, in which the explorer rollouts to leave out are no longer `kept`. Collective.

        `prompts` are those of all groups. The ranks of a replica share its groups.
        """
        explorer = int((groups.source_PG[0] != Source.LEARNER).sum())
        if explorer <= KEEP_MIN:
            return groups
        ranks, own = self.rollouts.ranks, list(groups.own.values())
        more = self._more_learner_samples(groups, prompts, explorer, step)
        members = ranks.members(ranks.replica)
        kept: dict[int, list[int]] = {}
        for group in own[members.index(ranks.rank) :: len(members)]:
            learners = [completion for completion in group.completions if completion.source == Source.LEARNER]
            reference = [*learners, *more[group.prompt.prompt_id]][:explorer]
            seed = sample_seed(self.run_seed, step, group.prompt.prompt_id, 0)
            kept[group.prompt.prompt_id] = _kept(group.completions[:explorer], reference, seed)
        of_replica = {prompt: indices for part in ranks.gather_in_replica(kept) for prompt, indices in part.items()}
        marked = [_marked(group, explorer, of_replica[group.prompt.prompt_id]) for group in own]
        return StepGroups.gather(ranks, prompts, marked)

    def _more_learner_samples(
        self, groups: StepGroups, prompts: Sequence[Prompt], explorer: int, step: int
    ) -> dict[int, list[Completion]]:
        """Graded learner samples beside those of this replica's groups, by prompt.

        Their sample ids follow those of the group.
        """
        size = groups.source_PG.size(1)
        missing = max(0, explorer - (size - explorer))
        samples: dict[int, list[Completion]] = {group.prompt.prompt_id: [] for group in groups.own.values()}
        if missing:
            sources = [explorers_first(0, missing)] * len(prompts)
            requests = requests_of(prompts, sources, step=step, run_seed=self.run_seed, drawn={}, first_sample=size)[
                Source.LEARNER
            ]
            ranks = self.rollouts.ranks
            replica_P = [ranks.replica_of[holder] for holder in groups.holder_P]
            ask = Ask(Source.LEARNER, requests, self.sampling)
            _, completions = self.rollouts.graded([ask], prompts, lambda _: replica_P)
            for completion in sorted(completions, key=lambda completion: completion.sample_id):
                samples[completion.prompt_id].append(completion)
            own = [Group(group.prompt, tuple(samples[group.prompt.prompt_id])) for group in groups.own.values()]
            count_sampled(self.progress, prompts, StepGroups.gather(ranks, prompts, own), self.shapes)
        return samples


def _kept(explorer: Sequence[Completion], reference: Sequence[Completion], seed: int) -> list[int]:
    tokens = [[completion.token_ids.tolist() for completion in side] for side in (explorer, reference)]
    answers = [
        [None if completion.answer is None else normalize_answer(completion.answer) for completion in side]
        for side in (explorer, reference)
    ]
    return match_learner_diversity(tokens[0], answers[0], tokens[1], answers[1], KEEP_MIN, seed)


def _marked(group: Group, explorer: int, kept: Sequence[int]) -> Group:
    """The explorer's completions are the first ones of a group."""
    marked = [replace(completion, kept=index in kept) for index, completion in enumerate(group.completions[:explorer])]
    return replace(group, completions=(*marked, *group.completions[explorer:]))
