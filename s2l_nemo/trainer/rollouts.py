"""Both engines of a run on all ranks: sampling, weight updates, sleep, and what a lost server needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from s2l_nemo.actor.protocol import Actor
from s2l_nemo.engines.protocol import LearnerEngine, RolloutEngine
from s2l_nemo.engines.served.client import EngineDied, ServedEngine, ServedLearnerEngine
from s2l_nemo.trainer.clock import Clock
from s2l_nemo.trainer.grading import Grading
from s2l_nemo.trainer.ranks import Ranks
from s2l_nemo.types import Completion, Prompt, SampleRequest, SamplingParams


@dataclass
class Rollouts:
    """Every method is collective. `concurrent`: the engines are processes of their own and sample at the same time.

    A learner's server that died or hung is started again and refitted from the actor, as often as its
    `engine.max_restarts` allows, and its requests are repeated: the seeds are theirs, so the tokens are the same.
    """

    explorer: RolloutEngine | None
    learner: LearnerEngine
    actor: Actor
    ranks: Ranks
    grading: Grading
    concurrent: bool = False
    sleeps: bool = False  # engines give their memory to the actor between rollouts
    version: int = 0  # weights that the learner's engine has
    asleep: set[str] = field(default_factory=set)  # of "explorer" and "learner"

    def graded(
        self,
        for_explorer: Sequence[SampleRequest],
        for_learner: Sequence[SampleRequest],
        params: SamplingParams,
        prompts: Sequence[Prompt],
        clock: Clock | None = None,
    ) -> list[Completion]:
        """One completion with its reward for every request, in any order, the same list on every rank.

        Each rank grades what its own engines have sampled. `prompts` holds the prompt of every request.
        """
        clock = clock or Clock()
        with clock("rollout"):
            sampled = self.sample(for_explorer, for_learner, params, clock)
        with clock("reward"):
            return self.ranks.exchange(self.grading(sampled, prompts))

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
        """Gives the learner's engine the actor's weights as this version."""
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
        self._wake("learner", self.learner)

    def sleep(self) -> None:
        """Engines on the actor's devices let go of their memory. A refit wakes the learner, its next use the explorer.

        The learner's weights count as lost.
        """
        if self.sleeps:
            for name, engine in (("explorer", self.explorer), ("learner", self.learner)):
                if isinstance(engine, ServedEngine) and name not in self.asleep:
                    engine.sleep()
                    self.asleep.add(name)
            torch.distributed.barrier()

    def close(self) -> None:
        """Ends the servers of this rank and the grader's processes."""
        self.grading.close()
        for engine in (self.explorer, self.learner):
            if isinstance(engine, ServedEngine):
                engine.close()

    def metrics(self) -> dict[str, float | int | None]:
        """Bytes and rate of the last refit over shared memory, and restarts of both servers, on this rank."""
        served = [engine for engine in (self.explorer, self.learner) if isinstance(engine, ServedEngine)]
        refit = self.learner.last_refit if isinstance(self.learner, ServedLearnerEngine) else None
        return {
            "refit/bytes": refit.bytes if refit else None,
            "refit/bytes_per_s": refit.bytes_per_s if refit else None,
            "engine/restarts": sum(engine.restarts for engine in served) if served else None,
        }

    def _by_explorer(self, requests: Sequence[SampleRequest], params: SamplingParams, clock: Clock) -> list[Completion]:
        assert self.explorer is not None
        with clock("rollout_explorer"):
            self._wake("explorer", self.explorer)
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

    def _wake(self, name: str, engine: RolloutEngine | None) -> None:
        if name in self.asleep:
            assert isinstance(engine, ServedEngine)
            engine.resume()
            self.asleep.discard(name)

    def _any_lost(self, lost: Sequence[EngineDied]) -> bool:
        return any(self.ranks.gather(bool(lost)))

    def _start_again(self, lost: Sequence[EngineDied]) -> None:
        """Raises EngineDied on the rank whose server was lost too often; its end ends the run."""
        if lost:
            assert isinstance(self.learner, ServedLearnerEngine)
            self.learner.restart()
            self.asleep.discard("learner")


class AbsentEngine:
    """Stands for the server of a rank's node on the ranks that do not speak to it: they sample nothing."""

    def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Completion]:
        assert not requests
        return []

    def weight_hash(self) -> str:
        raise RuntimeError("only the rank that speaks to the server knows its weights")


class AbsentLearnerEngine(AbsentEngine):
    weight_version = 0

    def update_weights(self, buckets: object, version: int) -> None:
        """Takes part in making the buckets, which is collective."""
        for _ in buckets:  # type: ignore[attr-defined]
            pass
