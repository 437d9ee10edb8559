"""Both engines of a run on all ranks: sampling, weight updates, sleep, and what a lost server needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from s2l_nemo.actor.protocol import Actor
from s2l_nemo.engines.protocol import EngineDied, LearnerEngine, RolloutEngine
from s2l_nemo.trainer.clock import Clock
from s2l_nemo.trainer.exchange import Place, deliver
from s2l_nemo.trainer.grading import Grading, graded
from s2l_nemo.trainer.ranks import Ranks
from s2l_nemo.types import Completion, Prompt, SampleRequest, SamplingParams


@dataclass
class Rollouts:
    """The two engines of each rank. `sample`, `refit` and `sleep` are collective.

    If the learner's engine is lost, it is restarted and refitted from the actor, as often as `engine.max_restarts`
    allows. Its requests are then repeated. Seeds are in the requests, so the tokens are the same.
    """

    explorer: RolloutEngine | None
    learner: LearnerEngine
    actor: Actor
    ranks: Ranks
    grading: Grading
    concurrent: bool = False  # engines are processes of their own and sample at the same time
    sleeps: bool = False  # engines give their memory to the actor between rollouts
    version: int = 0  # of the weights that the learner's engine has

    def graded(
        self,
        for_explorer: Sequence[SampleRequest],
        for_learner: Sequence[SampleRequest],
        params: SamplingParams,
        prompts: Sequence[Prompt],
        place: Place,
        clock: Clock | None = None,
    ) -> tuple[list[Prompt], list[Completion]]:
        """A completion with its reward for every request whose prompt `place` gives to this replica, and those prompts.

        `prompts` holds the prompt of every request. The ranks of a replica share the grading.
        """
        clock = clock or Clock()
        with clock("rollout"):
            sampled = self.sample(for_explorer, for_learner, params, clock)
        with clock("exchange"):
            own_prompts, completions = deliver(self.ranks, sampled, prompts, place)
        with clock("reward"):
            members = self.ranks.members(self.ranks.replica)
            mine = self.grading.grades(completions[members.index(self.ranks.rank) :: len(members)], own_prompts)
            shares = self.ranks.gather_in_replica(mine)
            grades = [shares[index % len(members)][index // len(members)] for index in range(len(completions))]
            return own_prompts, [graded(*pair) for pair in zip(completions, grades, strict=True)]

    def sample(
        self,
        for_explorer: Sequence[SampleRequest],
        for_learner: Sequence[SampleRequest],
        params: SamplingParams,
        clock: Clock,
    ) -> list[Completion]:
        """This rank's share of the completions of all requests. Returns once every rank has its share."""
        self.actor.release_memory()
        jobs: list[Callable[[], list[Completion]]] = []
        if for_explorer:
            jobs.append(lambda: self._by_explorer(for_explorer, params, clock))
        lost: list[EngineDied] = []
        if for_learner:
            jobs.append(lambda: self._by_learner(for_learner, params, clock, lost))
        if self.concurrent:
            with ThreadPoolExecutor(len(jobs)) as pool:
                completions = [c for part in pool.map(lambda job: job(), jobs) for c in part]
        else:
            completions = [completion for job in jobs for completion in job()]
        while self._any_lost(lost):
            self._start_again(lost)
            self.refit(self.version)
            if lost:
                lost.clear()
                completions += self._by_learner(for_learner, params, clock, lost)
        return completions

    def refit(self, version: int) -> None:
        """Gives the learner's engine the actor's weights as this version, and wakes it."""
        while True:
            lost: list[EngineDied] = []
            try:
                self.learner.update_weights(self.actor.export_weights(), version=version)
            except EngineDied as error:
                lost.append(error)
            if not self._any_lost(lost):
                break
            self._start_again(lost)
        self.version = version
        self.learner.resume()

    def sleep(self) -> None:
        """Engines on the actor's devices let go of their memory.

        A refit wakes the learner's engine, whose weights count as lost. Its next use wakes the explorer.
        """
        if self.sleeps:
            for engine in self._engines():
                engine.sleep()
            torch.distributed.barrier()

    def close(self) -> None:
        """Ends the servers of this rank and the grader's processes."""
        self.grading.close()
        for engine in self._engines():
            engine.close()

    def metrics(self) -> dict[str, float | int | None]:
        """Bytes and rate of the last refit to another process, and restarts of both engines, on this rank.

        They are None for engines in this process.
        """
        refit = self.learner.last_refit
        restarts = [engine.restarts for engine in self._engines() if engine.restarts is not None]
        return {
            "refit/bytes": refit.bytes if refit else None,
            "refit/bytes_per_s": refit.bytes_per_s if refit else None,
            "engine/restarts": sum(restarts) if restarts else None,
        }

    def _engines(self) -> list[RolloutEngine]:
        return [self.learner] if self.explorer is None else [self.explorer, self.learner]

    def _by_explorer(self, requests: Sequence[SampleRequest], params: SamplingParams, clock: Clock) -> list[Completion]:
        assert self.explorer is not None
        with clock("rollout_explorer"):
            self.explorer.resume()
            return self._generate(self.explorer, requests, params)

    def _by_learner(
        self, requests: Sequence[SampleRequest], params: SamplingParams, clock: Clock, lost: list[EngineDied]
    ) -> list[Completion]:
        with clock("rollout_learner"):
            try:
                return self._generate(self.learner, requests, params)
            except EngineDied as error:
                lost.append(error)
                return []

    def _generate(
        self, engine: RolloutEngine, requests: Sequence[SampleRequest], params: SamplingParams
    ) -> list[Completion]:
        completions = engine.generate(self.ranks.share(requests), params)
        if not self.concurrent:
            torch.distributed.barrier()  # so that waiting for the slowest rank counts as generation
        return completions

    def _any_lost(self, lost: Sequence[EngineDied]) -> bool:
        return any(self.ranks.gather(bool(lost)))

    def _start_again(self, lost: Sequence[EngineDied]) -> None:
        """Raises EngineDied on the rank whose engine was lost too often; its end ends the run."""
        if lost:
            self.learner.restart()
