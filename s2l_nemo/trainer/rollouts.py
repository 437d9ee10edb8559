"""The engines of a run on all ranks: sampling, weight updates, sleep, and what a lost server needs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

from s2l_nemo.actor.protocol import Actor
from s2l_nemo.engines.protocol import EngineDied, LearnerEngine, RolloutEngine
from s2l_nemo.trainer.clock import Clock
from s2l_nemo.trainer.exchange import Place, deliver
from s2l_nemo.trainer.grading import Grading, graded
from s2l_nemo.trainer.ranks import Ranks
from s2l_nemo.types import Completion, Prompt, SampleRequest, SamplingParams, Source


@dataclass(frozen=True)
class Ask:
    """What one policy is asked, by all ranks together."""

    source: int  # see `Source`
    requests: Sequence[SampleRequest]
    params: SamplingParams


@dataclass(frozen=True)
class _Begun:
    """What an explorer's engine samples for the next step, while the actor trains."""

    asks: Sequence[Ask]
    started: float  # seconds
    result: Future[tuple[list[Completion], float]]  # and when it was there


@dataclass
class Rollouts:
    """The engines of each rank: the learner's, and those of explorers. `sample`, `refit` and `sleep` are collective.

    Explorers of one model share an engine.

    If the learner's engine is lost, it is restarted and refitted from the actor, as often as `engine.max_restarts`
    allows. It then samples what is left.

    If engines sleep, actor and engines use the same devices in turn. Each step below ends on every rank before the next
    one begins on any:

        refit    the actor gives back what it does not use; the learner's engine takes memory for weights alone
        sample   the actor gives back what it can, its weights included; all engines take all their memory
        sleep    the engines give all of it back; the actor may take its own again
    """

    explorers: Mapping[int, RolloutEngine]  # by source
    learner: LearnerEngine
    actor: Actor
    ranks: Ranks
    grading: Grading
    concurrent: bool = False  # engines are processes of their own and sample at the same time
    sleeps: bool = False  # engines give their memory to the actor between rollouts
    version: int = 0  # of the weights that the learner's engine has, or had when it fell asleep
    awake: bool = True  # engines hold all their memory
    fitted: bool = True  # the learner's engine holds the weights of `version`
    now: Callable[[], float] = time.perf_counter  # seconds
    _begun: dict[int, _Begun] = field(default_factory=dict)  # by the id of the engine

    def graded(
        self,
        asks: Sequence[Ask],
        prompts: Sequence[Prompt],
        place: Place,
        clock: Clock | None = None,
        grading: Grading | None = None,
    ) -> tuple[list[Prompt], list[Completion]]:
        """A completion with its reward for every request whose prompt `place` gives to this replica, and those prompts.

        `prompts` holds the prompt of every request. The ranks of a replica share the grading,
        by `grading` or else by the training's.
        """
        grading = grading or self.grading
        clock = clock or Clock()
        with clock("rollout"):
            sampled = self.sample(asks, clock)
        with clock("exchange"):
            own_prompts, completions = deliver(self.ranks, sampled, prompts, place)
        with clock("reward"):
            members = self.ranks.members(self.ranks.replica)
            mine = grading.grades(completions[members.index(self.ranks.rank) :: len(members)], own_prompts)
            shares = self.ranks.gather_in_replica(mine)
            grades = [shares[index % len(members)][index // len(members)] for index in range(len(completions))]
            return own_prompts, [graded(*pair) for pair in zip(completions, grades, strict=True)]

    def sample(self, asks: Sequence[Ask], clock: Clock) -> list[Completion]:
        """This rank's share of the completions of all requests. Returns once every rank has its share."""
        if not self.fitted:
            self.refit(self.version)
        self._make_room()
        self.awake = True
        jobs: list[Callable[[], list[Completion]]] = []
        for engine, its in self._by_engine(asks):
            jobs.append(partial(self._by_explorer, engine, its, clock))
        lost: list[EngineDied] = []
        of_learner = [ask for ask in asks if ask.source == Source.LEARNER and ask.requests]
        if of_learner:
            jobs.append(partial(self._by_learner, of_learner, clock, lost))
        parts = self.ranks.work(*jobs) if self.concurrent else [job() for job in jobs]
        while self._any_lost(lost):
            self._start_again(lost)
            self.refit(self.version)
            self._make_room()
            self.awake = True
            again = [partial(self._by_learner, of_learner, clock, lost)] if lost else []
            lost.clear()
            parts += self.ranks.work(*again)
        return [completion for part in parts for completion in part]

    def sample_ahead(self, asks: Sequence[Ask]) -> None:
        """Begins to sample what explorers will be asked next. The next `sample` with the same asks takes the result.

        Explorers are frozen, and the seeds are in the requests. So these are samples of the same model, and the same
        samples if the engine repeats them (`RolloutEngine`). Engines must not sleep.
        """
        assert self.concurrent, "no other process can sample meanwhile"
        assert not self.sleeps, "the actor has the engines' devices"
        for engine, its in self._by_engine(asks):
            pool = ThreadPoolExecutor(1)
            self._begun[id(engine)] = _Begun(its, self.now(), pool.submit(self._timed, engine, its))
            pool.shutdown(wait=False)

    def refit(self, version: int) -> None:
        """Gives the learner's engine the actor's weights as this version. Its next use wakes the rest of it."""
        if self.sleeps:
            self.actor.release_cache()
            self.ranks.barrier()
        while True:
            lost: list[EngineDied] = []
            try:
                self.learner.update_weights(self.actor.export_weights(), version=version)
            except EngineDied as error:
                lost.append(error)
            if not self._any_lost(lost):
                break
            self._start_again(lost)
        self.version, self.fitted = version, True

    def sleep(self) -> None:
        """Engines on the actor's devices let go of their memory, unless they have only the weights of a refit.

        The learner's weights count as lost. If it is asked to sample before the next refit, it gets those of `version`.
        """
        if self.sleeps and self.awake:
            self.ranks.work(*(engine.sleep for engine in self._frozen()), self._put_learner_to_sleep)
            self.awake = self.fitted = False

    def close(self) -> None:
        """Ends the servers of this rank and the grader's processes."""
        self.grading.close()
        for engine in self._engines():
            engine.close()

    def metrics(self) -> dict[str, float | int | None]:
        """Bytes and rate of this rank's last refit to another process, and restarts of the engines of all ranks.

        They are None for engines in this process. Collective.
        """
        refit = self.learner.last_refit
        of_ranks = self.ranks.gather([engine.restarts for engine in self._engines()])
        restarts = [count for counts in of_ranks for count in counts if count is not None]
        return {
            "refit/bytes": refit.bytes if refit else None,
            "refit/bytes_per_s": refit.bytes_per_s if refit else None,
            "engine/restarts": sum(restarts) if restarts else None,
        }

    def _engines(self) -> list[RolloutEngine]:
        return [*self._frozen(), self.learner]

    def _frozen(self) -> list[RolloutEngine]:
        """The engines of explorers, each once."""
        return list({id(engine): engine for engine in self.explorers.values()}.values())

    def _by_engine(self, asks: Sequence[Ask]) -> list[tuple[RolloutEngine, list[Ask]]]:
        """What each explorer engine is asked, if it is asked anything."""
        wanted = [ask for ask in asks if ask.source != Source.LEARNER and ask.requests]
        by_engine = [
            (engine, [ask for ask in wanted if self.explorers[ask.source] is engine]) for engine in self._frozen()
        ]
        return [(engine, its) for engine, its in by_engine if its]

    def _by_explorer(self, engine: RolloutEngine, asks: Sequence[Ask], clock: Clock) -> list[Completion]:
        begun = self._begun.pop(id(engine), None)
        with clock("rollout_explorer"):
            if begun is not None:
                assert begun.asks == asks, "an explorer samples something else ahead"
                asked = self.now()
                completions, done = begun.result.result()
                clock.add("explorer_ahead", min(done, asked) - begun.started)
                return completions
            engine.resume()
            return self._generate(engine, asks)

    def _timed(self, engine: RolloutEngine, asks: Sequence[Ask]) -> tuple[list[Completion], float]:
        engine.resume()
        return self._generate(engine, asks), self.now()

    def _by_learner(self, asks: Sequence[Ask], clock: Clock, lost: list[EngineDied]) -> list[Completion]:
        with clock("rollout_learner"):
            try:
                self.learner.resume()
                return self._generate(self.learner, asks)
            except EngineDied as error:
                lost.append(error)
                return []

    def _generate(self, engine: RolloutEngine, asks: Sequence[Ask]) -> list[Completion]:
        completions: list[Completion] = []
        for ask in asks:
            sampled = engine.generate(self.ranks.share(ask.requests), ask.params)
            completions += [one if one.source == ask.source else replace(one, source=ask.source) for one in sampled]
        if not self.concurrent:
            self.ranks.barrier()  # so that waiting for the slowest rank counts as generation
        return completions

    def _any_lost(self, lost: Sequence[EngineDied]) -> bool:
        return any(self.ranks.gather(bool(lost)))

    def _start_again(self, lost: Sequence[EngineDied]) -> None:
        """Restarts lost engines where there is room for them. All sleep then, because the actor needs it for a refit.

        Raises EngineDied on the rank whose engine was lost too often; its end ends the run.
        """
        self.sleep()
        self._make_room()
        self.ranks.work(*([self._restart_learner] if lost else []))

    def _restart_learner(self) -> None:
        self.learner.restart()
        if self.sleeps:
            self._put_learner_to_sleep()

    def _put_learner_to_sleep(self) -> None:
        with contextlib.suppress(EngineDied):  # it has no memory then, and the next refit starts it again
            self.learner.sleep()

    def _make_room(self) -> None:
        """The actor gives back the memory that it can do without, before any engine takes it."""
        self.actor.release_memory()
        if self.sleeps:
            self.actor.release_cache()
            self.ranks.barrier()
