"""Plays training steps on all devices of a run, phase by phase, and says who waits for whom."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from s2l_nemo.config.schema import Config
from s2l_nemo.models.shape import ModelShape
from s2l_nemo.planner.cost import Assumed, kind_of
from s2l_nemo.planner.simulation.engine import Replica, Work
from s2l_nemo.planner.simulation.layout import Layout, layout_of
from s2l_nemo.planner.simulation.lengths import Group, Lengths, Model
from s2l_nemo.planner.simulation.rates import Rates, Room, apart
from s2l_nemo.planner.simulation.rollout import Dispatch, Requests, Sampler, Slot, play
from s2l_nemo.planner.simulation.timeline import Phase, Timeline
from s2l_nemo.planner.simulation.training import TrainingWork, exchange_bytes, rank_replicas, training_work


@dataclass(frozen=True)
class Scenario:
    """How requests come to engines, whether replicas are balanced, and whether the explorer samples ahead.

    `slow` are devices whose work takes `slowdown` times as long.
    """

    dispatch: Dispatch = Dispatch.share
    chunk: int = 8
    balanced: bool = True
    ahead: bool = False
    slow: frozenset[int] = frozenset()
    slowdown: float = 1.0


@dataclass(frozen=True)
class Run:
    """What is simulated. `rooms` are of learner and explorer. `spare`: see `layout_of`."""

    cfg: Config
    shape: ModelShape  # of the learner
    rates: Rates
    rooms: tuple[Room, Room | None]
    assumed: Assumed
    lengths: Lengths
    explorer: int  # samples of each group
    spare: int = 0

    @cached_property
    def layout(self) -> Layout:
        return layout_of(self.cfg, self.spare)

    @property
    def explorer_alone(self) -> bool:
        """Whether the explorer has GPUs of its own."""
        return apart(self.cfg) or self.spare > 0

    @cached_property
    def replica_of(self) -> list[int]:
        """The replica of the actor that each rank belongs to."""
        return rank_replicas(self.cfg)


@dataclass(frozen=True)
class StepTimes:
    """When a step begins, and when each of its parts ends on the last device, in seconds."""

    start: float
    sampled: float  # with what wakes engines
    exchanged: float
    graded: float
    slept: float
    prepared: float  # log-probs
    trained: float
    refitted: float
    end: float


@dataclass(frozen=True)
class Played:
    """Some steps in a row, and what each replica of a model has done in each of them."""

    timeline: Timeline
    layout: Layout
    steps: list[StepTimes]
    answers: list[int]  # of each step
    tokens: list[int]  # of these answers
    work: list[dict[Model, list[Work]]]
    training: list[TrainingWork]
    exchanged: list[list[float]]  # bytes of each rank


def play_steps(run: Run, scenario: Scenario, drawn: Sequence[Sequence[Group]]) -> Played:
    """Plays one step for each list of groups in `drawn`. With `ahead`, the explorer must have GPUs of its own."""
    assert not scenario.ahead or run.explorer_alone
    player = _Player(run, scenario, Timeline(run.layout.devices))
    for groups in drawn:
        player.step(groups)
    return Played(
        timeline=player.timeline,
        layout=run.layout,
        steps=player.steps,
        answers=[sum(len(group) for group in groups) for groups in drawn],
        tokens=[sum(answer.length for group in groups for answer in group) for groups in drawn],
        work=player.work,
        training=player.training,
        exchanged=player.exchanged,
    )


def draw_steps(run: Run, steps: int, seed: int) -> list[list[Group]]:
    """The groups of `steps` steps. They depend on the seed and the numbers of prompts and samples alone."""
    rng, config = random.Random(seed), run.cfg.algorithm
    learner = config.group_size - run.explorer
    return [run.lengths.draw(rng, config.prompts_per_step, run.explorer, learner) for _ in range(steps)]


class _Player:
    def __init__(self, run: Run, scenario: Scenario, timeline: Timeline) -> None:
        self.run, self.scenario, self.timeline = run, scenario, timeline
        self.steps: list[StepTimes] = []
        self.work: list[dict[Model, list[Work]]] = []
        self.training: list[TrainingWork] = []
        self.exchanged: list[list[float]] = []

    def step(self, groups: Sequence[Group]) -> None:
        run, rates, timeline = self.run, self.run.rates, self.timeline
        start = self.steps[-1].end if self.steps else 0.0
        ranks = run.layout.rank_devices
        woken = timeline.together(ranks, Phase.wake, start, [rates.wake_s] * len(ranks))
        sampled, sampler = self._sample(groups, woken)
        work = training_work(run.cfg, run.shape, groups, run.assumed, self.scenario.balanced)
        exchanged = self._exchange(groups, work, sampler, sampled)
        graded = self._grade(groups, work, exchanged)
        slept = timeline.together(ranks, Phase.sleep, graded, [rates.sleep_s] * len(ranks))
        prepared = trained = self._train(Phase.logprobs, work.logprobs_R, rates.logprob_flop_s, slept)
        for _ in range(run.cfg.algorithm.optimizer_passes):
            for flops_R in work.updates_UR:
                trained = self._train(Phase.update, flops_R, rates.update_flop_s, trained)
        fits = {device for its in run.layout.engine_devices[Model.learner] for device in its}
        fitting = sorted({*ranks, *fits})
        refitted = timeline.together(fitting, Phase.refit, trained, [rates.refit_s] * len(fitting))
        end = timeline.together(ranks, Phase.outside, refitted, [rates.outside_s] * len(ranks))
        self.steps.append(StepTimes(start, sampled, exchanged, graded, slept, prepared, trained, refitted, end))
        self.training.append(work)

    def _sample(self, groups: Sequence[Group], start: float) -> tuple[float, Sampler]:
        """Explorer and learner at once if engines are servers, on the same devices or not; else one after the other."""
        answers = {
            model: [answer for group in groups for answer in group if answer.model is model]
            for model in self.run.layout.engine_devices
        }
        wanted = {model: its for model, its in answers.items() if its}
        self.work.append({})
        if kind_of(self.run.cfg).served and not self.run.explorer_alone:
            return self._play(wanted, start)
        sampler: Sampler = {}
        end = start
        for model, its in wanted.items():
            begins = end
            if self.run.explorer_alone:
                begins = self._explorer_begins(start) if model is Model.explorer else start
            ended, sampled_by = self._play({model: its}, begins)
            end = max(end, ended)
            sampler |= sampled_by
        return end, sampler

    def _explorer_begins(self, start: float) -> float:
        """Ahead of time it begins once the step before is graded, as `rollout.explorer_ahead` does in the trainer."""
        return self.steps[-1].graded if self.scenario.ahead and self.steps else start

    def _play(self, requests: Requests, start: float) -> tuple[float, Sampler]:
        engine_devices = self.run.layout.engine_devices[next(iter(requests))]
        slots = [
            Slot(its, {model: self._replica(model) for model in requests}, self._slowness(its))
            for its in engine_devices
        ]
        scenario = self.scenario
        ended = play(
            slots, requests, dispatch=scenario.dispatch, chunk=scenario.chunk, start=start, timeline=self.timeline
        )
        for model in requests:
            self.work[-1][model] = [slot.replicas[model].work for slot in slots]
        return ended

    def _replica(self, model: Model) -> Replica:
        of_learner, of_explorer = self.run.rooms
        if model is Model.learner:
            return Replica(self.run.rates.learner, of_learner)
        assert self.run.rates.explorer is not None
        assert of_explorer is not None
        return Replica(self.run.rates.explorer, of_explorer)

    def _exchange(self, groups: Sequence[Group], work: TrainingWork, sampler: Sampler, start: float) -> float:
        run = self.run
        moved = exchange_bytes(groups, work.replica_P, run.replica_of, sampler, run.layout.leaders)
        self.exchanged.append(moved)
        seconds = [count / run.rates.exchange_bytes_s for count in moved]
        return self.timeline.together(run.layout.rank_devices, Phase.exchange, start, seconds)

    def _grade(self, groups: Sequence[Group], work: TrainingWork, start: float) -> float:
        """The ranks of a replica share the grading of its completions."""
        run = self.run
        answers_R = [0] * len(work.logprobs_R)
        for group, replica in zip(groups, work.replica_P, strict=True):
            answers_R[replica] += len(group)
        members = len(run.replica_of) // len(answers_R)
        seconds = [answers_R[replica] / members / run.rates.grades_per_s for replica in run.replica_of]
        return self.timeline.together(run.layout.rank_devices, Phase.grading, start, seconds)

    def _train(self, phase: Phase, flops_R: Sequence[float], flop_s: float, start: float) -> float:
        """A replica is as fast as its slowest rank, and all wait for the last one."""
        ranks, replica_of = self.run.layout.rank_devices, self.run.replica_of
        slowness_R = [1.0] * len(flops_R)
        for device, replica in zip(ranks, replica_of, strict=True):
            slowness_R[replica] = max(slowness_R[replica], self._slowness([device]))
        seconds = [flops_R[replica] * slowness_R[replica] / flop_s for replica in replica_of]
        return self.timeline.together(ranks, phase, start, seconds)

    def _slowness(self, devices: Sequence[int]) -> float:
        return self.scenario.slowdown if self.scenario.slow.intersection(devices) else 1.0
