"""The groups of a step: which prompts, who answers them, and what becomes of groups that teach nothing.

prompts  ->  G samples of each  ->  grades                                  Algorithm 1
             the learner's first ones -> grades -> who gives the others     `rescue_first`
             groups of equal rewards -> those of further prompts            `refill_rounds`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from s2l_nemo.algorithm.advantages import has_variance, needs_rescue, zero_variance_fraction
from s2l_nemo.algorithm.groups import GroupSources, assemble_groups, explorers_first, requests_of
from s2l_nemo.algorithm.options import AlgorithmConfig
from s2l_nemo.algorithm.order import take, take_others
from s2l_nemo.algorithm.schedule import Split
from s2l_nemo.trainer.clock import Clock
from s2l_nemo.trainer.exchange import Place, StepGroups
from s2l_nemo.trainer.progress import Progress
from s2l_nemo.trainer.rollouts import Ask, Rollouts
from s2l_nemo.trainer.spent import Shapes, count_sampled
from s2l_nemo.types import Prompt, SampleRequest, SamplingParams, Source


@dataclass(frozen=True)
class ExplorerRole:
    """One of the explorers, as the training loop knows it."""

    name: str
    share: float  # of the explorers' samples, relative to the other explorers'
    sampling: SamplingParams


@dataclass(frozen=True)
class Sampled:
    """The groups of one step, and what it took to get them."""

    prompts: list[Prompt]
    groups: StepGroups
    zero_variance: float  # share of the first P groups whose rewards were equal
    refilled: int = 0  # groups that were replaced
    tried: int = 0  # further prompts that were asked for that

    @property
    def asked(self) -> int:
        """All prompts that were asked."""
        return len(self.prompts) + self.tried


@dataclass
class GroupSampler:
    """Makes the groups of each step. `sample` is collective, and its decisions are the same on every rank."""

    algorithm: AlgorithmConfig
    rollouts: Rollouts
    prompts: Sequence[Prompt]  # of training
    learner: SamplingParams
    explorers: Sequence[ExplorerRole]
    run_seed: int
    progress: Progress
    shapes: Shapes  # of the models that sample

    def take(self) -> list[int]:
        """The prompts of the next step, by their places in `prompts`."""
        chosen, self.progress.position = self._next_prompts()
        return chosen

    def sample(self, chosen: Sequence[int], split: Split, place: Place, version: int, clock: Clock) -> Sampled:
        """Graded groups of the chosen prompts.

        `place` says which replica trains on which group, `version` which weights the learner must have.
        """
        prompts = [self.prompts[index] for index in chosen]
        groups = self._groups(prompts, split, place, version, clock)
        sampled = Sampled(prompts, groups, zero_variance_fraction(groups.reward_PG, groups.kept_PG))
        tried = set(chosen)
        for _ in range(self.algorithm.refill_rounds):
            equal = (~has_variance(sampled.groups.reward_PG, sampled.groups.kept_PG)).nonzero().flatten().tolist()
            further, self.progress.position = self._other_prompts(len(equal), tried)
            if not further:  # nothing to replace, or no prompt that was not asked
                break
            tried.update(further)
            others = [self.prompts[index] for index in further]
            sampled = self._refilled(sampled, equal[: len(others)], others, split, version, clock)
        return sampled

    def ahead(self, split: Split) -> list[Ask]:
        """What explorers will be asked first at the next step, whose split this is. It counts as not asked yet."""
        chosen, _ = self._next_prompts()
        sources = explorers_first(split.explorer, split.learner, self._shares())
        requests = self._requests([self.prompts[index] for index in chosen], [sources] * len(chosen), split.step)
        return [ask for ask in self._asks(requests) if ask.source != Source.LEARNER]

    def _next_prompts(self) -> tuple[list[int], int]:
        """The P prompts of the next step, as indices, and the position after them."""
        size, position = self.algorithm.prompts_per_step, self.progress.position
        if self.algorithm.refill_rounds:  # steps take different numbers of prompts
            return self._other_prompts(size, set())
        return take(position, size, len(self.prompts), self.run_seed), position + size

    def _other_prompts(self, count: int, tried: set[int]) -> tuple[list[int], int]:
        return take_others(self.progress.position, count, len(self.prompts), self.run_seed, tried)

    def _groups(self, prompts: Sequence[Prompt], split: Split, place: Place, version: int, clock: Clock) -> StepGroups:
        """Groups of G samples: as the schedule says, or after the learner's first samples."""
        shares = self._shares()
        first = self.algorithm.rescue_first
        if first is None:
            sources = explorers_first(split.explorer, split.learner, shares)
            # Without an explorer, the first of two updates of a step has had the learner's samples before these.
            earlier = 0 if self.explorers or split.explorer else self.algorithm.group_size - split.learner
            wanted = [sources] * len(prompts)
            return self._answered(prompts, wanted, split.step, place, version, clock, first_seed=earlier)
        learner_first = [(Source.LEARNER.value,) * first] * len(prompts)
        begun = self._answered(prompts, learner_first, split.step, place, version, clock)
        rest = split.explorer + split.learner - first
        explorer = min(split.explorer, rest)
        rescued, alone = explorers_first(explorer, rest - explorer, shares), explorers_first(0, rest)
        fails_P = needs_rescue(begun.reward_PG, self.algorithm.rescue_when).tolist()
        sources_P = [rescued if fails else alone for fails in fails_P]
        return self._answered(prompts, sources_P, split.step, self.where(begun), version, clock, begun)

    def _answered(
        self,
        prompts: Sequence[Prompt],
        sources_P: Sequence[GroupSources],
        step: int,
        place: Place,
        version: int,
        clock: Clock,
        begun: StepGroups | None = None,
        first_seed: int = 0,
    ) -> StepGroups:
        """Groups with one sample for each of the sources, behind those that they have begun with."""
        has = [tuple(group_G) for group_G in begun.source_PG.tolist()] if begun else [()] * len(prompts)
        requests = self._requests(prompts, sources_P, step, len(has[0]), first_seed)
        for source, its in requests.items():
            self.progress.draw(source, its)
        own_prompts, completions = self.rollouts.graded(self._asks(requests), prompts, place, clock)
        if begun:
            completions += [completion for group in begun.own.values() for completion in group.completions]
        ids = [prompt.prompt_id for prompt in prompts]
        sources = {prompt_id: (*a, *b) for prompt_id, a, b in zip(ids, has, sources_P, strict=True)}
        own = assemble_groups(own_prompts, completions, sources=sources, learner_version=version)
        groups = StepGroups.gather(self.rollouts.ranks, prompts, own)
        count_sampled(self.progress, prompts, groups, self.shapes, first=len(has[0]))
        return groups.without_failed() if self.algorithm.mask_failed else groups

    def _shares(self) -> list[float]:
        return [explorer.share for explorer in self.explorers]

    def _requests(
        self,
        prompts: Sequence[Prompt],
        sources_P: Sequence[GroupSources],
        step: int,
        first_sample: int = 0,
        first_seed: int = 0,
    ) -> dict[int, list[SampleRequest]]:
        return requests_of(
            prompts,
            sources_P,
            step=step,
            run_seed=self.run_seed,
            drawn=self.progress.drawn,
            first_sample=first_sample,
            first_seed=first_seed,
        )

    def _asks(self, requests: Mapping[int, Sequence[SampleRequest]]) -> list[Ask]:
        """Explorers before the learner."""
        params = [self.learner, *(explorer.sampling for explorer in self.explorers)]
        return [Ask(source, its, params[source]) for source, its in sorted(requests.items(), reverse=True)]

    def _refilled(
        self,
        sampled: Sampled,
        slots: Sequence[int],
        others: Sequence[Prompt],
        split: Split,
        version: int,
        clock: Clock,
    ) -> Sampled:
        """With the groups of `others` in those slots, if their rewards differ. A slot keeps its replica."""
        groups = self._groups(others, split, self.where(sampled.groups, slots), version, clock)
        differs = has_variance(groups.reward_PG, groups.kept_PG).tolist()
        taken = {slot: index for index, slot in enumerate(slots) if differs[index]}
        prompts = [others[taken[p]] if p in taken else prompt for p, prompt in enumerate(sampled.prompts)]
        return replace(
            sampled,
            prompts=prompts,
            groups=sampled.groups.with_others(taken, groups),
            refilled=sampled.refilled + len(taken),
            tried=sampled.tried + len(others),
        )

    def where(self, groups: StepGroups, slots: Sequence[int] | None = None) -> Place:
        """The replicas that have these groups, or those in some slots."""
        replica_P = [self.rollouts.ranks.replica_of[holder] for holder in groups.holder_P]
        wanted = replica_P if slots is None else [replica_P[slot] for slot in slots]
        return lambda _: wanted
