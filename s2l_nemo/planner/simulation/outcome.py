"""What a simulation says: seconds of a step, idle shares and their cause."""

from __future__ import annotations

from dataclasses import dataclass

from s2l_nemo.planner.simulation.lengths import Model
from s2l_nemo.planner.simulation.step import Played
from s2l_nemo.planner.simulation.timeline import SAMPLING, Phase


@dataclass(frozen=True)
class Outcome:
    """Means over the steps that were played, without the first one if there are more.

    Shares are of the time of all devices. The three idle shares add up to `idle`.
    """

    step_s: float
    sampling_s: float
    training_s: float
    tokens_per_s: float
    sampling: float  # share in which devices sample
    training: float  # share in which they compute log-probs or update
    idle: float
    idle_sampling: float  # while answers are sampled
    idle_training: float  # while log-probs are computed and the actor is updated
    idle_between: float  # in all other phases
    rows: dict[Model, float]  # that decode together in an engine, averaged over its decoding steps
    put_off: float  # how often a row was put off for lack of cache, per answer


def outcome_of(played: Played) -> Outcome:
    """The figures of a simulation."""
    first = 1 if len(played.steps) > 1 else 0
    steps, timeline = played.steps[first:], played.timeline
    start, end = steps[0].start, steps[-1].end
    total = timeline.devices * (end - start)

    def idle(windows: list[tuple[float, float]]) -> float:
        return sum(timeline.idle(low, high) * (high - low) for low, high in windows) / (end - start)

    def share(phases: frozenset[Phase]) -> float:
        return sum(timeline.busy(device, start, end, phases) for device in range(timeline.devices)) / total

    return Outcome(
        step_s=(end - start) / len(steps),
        sampling_s=sum(step.sampled - step.start for step in steps) / len(steps),
        training_s=sum(step.trained - step.slept for step in steps) / len(steps),
        tokens_per_s=sum(played.tokens[first:]) / (end - start),
        sampling=share(SAMPLING),
        training=share(frozenset({Phase.logprobs, Phase.update})),
        idle=timeline.idle(start, end),
        idle_sampling=idle([(step.start, step.sampled) for step in steps]),
        idle_training=idle([(step.slept, step.trained) for step in steps]),
        idle_between=idle([pair for step in steps for pair in ((step.sampled, step.slept), (step.trained, step.end))]),
        put_off=sum(one.evicted for step in played.work[first:] for its in step.values() for one in its)
        / sum(played.answers[first:]),
        rows={model: _mean_rows(played, first, model) for model in played.layout.engine_devices},
    )


def _mean_rows(played: Played, first: int, model: Model) -> float:
    work = [one for step in played.work[first:] for one in step.get(model, [])]
    steps = sum(one.steps for one in work)
    return sum(one.tokens for one in work) / steps if steps else 0.0


def phase_seconds(played: Played) -> dict[str, float]:
    """Seconds of each phase under the names of a run's metrics, averaged over all steps. They add up to a step.

    A phase lasts until its last device is done. `rollout` includes waking the engines, `logprobs` their falling asleep.
    """
    found: dict[str, float] = {}
    for step in played.steps:
        before = step.start
        for name, end in (
            ("rollout", step.sampled),
            ("exchange", step.exchanged),
            ("reward", step.graded),
            ("logprobs", step.prepared),
            ("update", step.trained),
            ("refit", step.refitted),
            ("outside", step.end),
        ):
            found[name] = found.get(name, 0.0) + (end - before) / len(played.steps)
            before = end
    return found
