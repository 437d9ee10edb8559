"""The control of Table 4 takes the explorer's diversity away.

It leaves out explorer rollouts, or chooses those of each group among more of them, so that groups keep their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from s2l_nemo.algorithm.groups import explorers_first, requests_of, sample_seed
from s2l_nemo.measures.diversity import Samples, choose_like_learner, match_learner_diversity
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

    With `candidates` nothing is left out: the explorer gives so many rollouts of each prompt, and the group gets those
    of them that are about as diverse as the learner's. One rollout has no diversity, so of one there is no choice.
    """

    rollouts: Rollouts
    sampling: SamplingParams
    run_seed: int
    progress: Progress
    shapes: Shapes  # of the models that sample
    explorers: Sequence[SamplingParams] = ()  # with `candidates` there is one
    candidates: int | None = None

    def __call__(self, groups: StepGroups, prompts: Sequence[Prompt], step: int) -> StepGroups:
        """The same groups, in which the explorer rollouts to leave out are no longer `kept`, or are others. Collective.

        `prompts` are those of all groups. The ranks of a replica share its groups.
        """
        explorer = int((groups.source_PG[0] != Source.LEARNER).sum())
        if explorer < KEEP_MIN or (self.candidates is None and explorer == KEEP_MIN):
            return groups
        ranks, own = self.rollouts.ranks, list(groups.own.values())
        more = self._more_samples(groups, prompts, Source.LEARNER, 2 * explorer - groups.source_PG.size(1), step)
        others = self._more_samples(groups, prompts, Source.EXPLORER, (self.candidates or 0) - explorer, step)
        members = ranks.members(ranks.replica)
        picked: dict[int, list[int]] = {}
        for group in own[members.index(ranks.rank) :: len(members)]:
            prompt_id = group.prompt.prompt_id
            learners = [completion for completion in group.completions if completion.source == Source.LEARNER]
            compared = (
                _compared([*group.completions[:explorer], *others[prompt_id]]),
                _compared([*learners, *more[prompt_id]][:explorer]),
            )
            seed = sample_seed(self.run_seed, step, prompt_id, 0)
            picked[prompt_id] = self._picked(*compared, explorer, seed)
        of_replica = {prompt: indices for part in ranks.gather_in_replica(picked) for prompt, indices in part.items()}
        change = _marked if self.candidates is None else _chosen
        changed = [
            change(group, explorer, others[group.prompt.prompt_id], of_replica[group.prompt.prompt_id]) for group in own
        ]
        return StepGroups.gather(ranks, prompts, changed)

    def _picked(self, explorer: Samples, reference: Samples, size: int, seed: int) -> list[int]:
        texts = explorer.tokens_K, explorer.answers_K, reference.tokens_K, reference.answers_K
        if self.candidates is None:
            return match_learner_diversity(*texts, KEEP_MIN, seed)
        return choose_like_learner(*texts, size)

    def _more_samples(
        self, groups: StepGroups, prompts: Sequence[Prompt], source: Source, missing: int, step: int
    ) -> dict[int, list[Completion]]:
        """Graded samples beside those of this replica's groups, by prompt: `missing` of each, if that is above 0.

        Their sample ids follow those of the group.
        """
        size = groups.source_PG.size(1)
        samples: dict[int, list[Completion]] = {group.prompt.prompt_id: [] for group in groups.own.values()}
        if missing > 0:
            learner = source is Source.LEARNER
            sources = [explorers_first(0, missing) if learner else explorers_first(missing, 0)] * len(prompts)
            drawn = {} if learner else self.progress.drawn  # what the learner adds is no draw of the run
            requests = requests_of(prompts, sources, step=step, run_seed=self.run_seed, drawn=drawn, first_sample=size)[
                source
            ]
            if not learner:
                self.progress.draw(source, requests)
            ranks = self.rollouts.ranks
            replica_P = [ranks.replica_of[holder] for holder in groups.holder_P]
            ask = Ask(source, requests, self.sampling if learner else self.explorers[0])
            _, completions = self.rollouts.graded([ask], prompts, lambda _: replica_P)
            for completion in sorted(completions, key=lambda completion: completion.sample_id):
                samples[completion.prompt_id].append(completion)
            own = [Group(group.prompt, tuple(samples[group.prompt.prompt_id])) for group in groups.own.values()]
            count_sampled(self.progress, prompts, StepGroups.gather(ranks, prompts, own), self.shapes)
        return samples


def _compared(completions: Sequence[Completion]) -> Samples:
    return Samples(
        [completion.token_ids.tolist() for completion in completions],
        [None if completion.answer is None else normalize_answer(completion.answer) for completion in completions],
    )


def _marked(group: Group, explorer: int, _others: Sequence[Completion], kept: Sequence[int]) -> Group:
    """The explorer's completions are the first ones of a group."""
    marked = [
        replace(completion, kept=completion.kept and index in kept)
        for index, completion in enumerate(group.completions[:explorer])
    ]
    return replace(group, completions=(*marked, *group.completions[explorer:]))


def _chosen(group: Group, explorer: int, others: Sequence[Completion], chosen: Sequence[int]) -> Group:
    """With those of its explorer's completions and the `others` that were chosen, numbered from 0 as ever."""
    candidates = [*group.completions[:explorer], *others]
    kept = all(group.kept_G())  # all or nothing: see `StepGroups.without_failed`
    picked = [replace(candidates[index], sample_id=sample, kept=kept) for sample, index in enumerate(chosen)]
    return replace(group, completions=(*picked, *group.completions[explorer:]))
