"""What the trainer asks of its engines, and in which order: scripted engines, no model and no server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

from s2l_nemo.engines.protocol import Bucket, EngineDied, RefitStats
from s2l_nemo.trainer.clock import Clock
from s2l_nemo.trainer.grading import Grading
from s2l_nemo.trainer.ranks import Ranks
from s2l_nemo.trainer.rollouts import Ask, Rollouts
from s2l_nemo.types import Completion, SampleRequest, SamplingParams, Source
from tests.arrays import ids, lps

PARAMS = SamplingParams(max_new_tokens=1, stop_token_ids=())
FOR_EXPLORER = [SampleRequest(0, 0, (1,), seed=5)]
FOR_LEARNER = [SampleRequest(0, 1, (1,), seed=6)]
ASKS = [Ask(Source.EXPLORER, FOR_EXPLORER, PARAMS), Ask(Source.LEARNER, FOR_LEARNER, PARAMS)]


class Engine:
    """Writes every call into `calls`. `dies_in` are the calls that lose its process, each once."""

    weight_version = 0

    def __init__(self, source: Source, calls: list[str]) -> None:
        self.source, self.calls = source, calls
        self.dies_in: list[str] = []
        self.restarts: int | None = 0
        self.last_refit: RefitStats | None = None

    def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Completion]:
        self._call("generate")
        return [Completion(r.prompt_id, r.sample_id, self.source, ids([7]), lps([-1.0]), "length", 0) for r in requests]

    def weight_hash(self) -> str:
        return ""

    def sleep(self) -> None:
        self._call("sleep")

    def resume(self) -> None:
        self._call("resume")

    def restart(self) -> None:
        self._call("restart")
        assert self.restarts is not None
        self.restarts += 1

    def close(self) -> None:
        self._call("close")

    def update_weights(self, buckets: Iterable[Bucket], version: int) -> None:
        for _ in buckets:
            pass
        self._call(f"update {version}")
        self.last_refit = RefitStats(seconds=2.0, bytes=8)

    def _call(self, name: str) -> None:
        self.calls.append(f"{self.source.name.lower()} {name}")
        if name in self.dies_in:
            self.dies_in.remove(name)
            raise EngineDied(f"it died in {name}")


class Actor:
    """Exports one empty bucket."""

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def release_memory(self) -> None:
        self.calls.append("actor release_memory")

    def release_cache(self) -> None:
        self.calls.append("actor release_cache")

    def export_weights(self) -> Iterator[Bucket]:
        yield {}


class Grader:
    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def close(self) -> None:
        self.calls.append("grader close")


class Script:
    """Rollouts of one rank, and the calls that they make."""

    def __init__(self, *, explores: bool = True, sleeps: bool = True) -> None:
        self.calls: list[str] = []
        self.explorer, self.learner = Engine(Source.EXPLORER, self.calls), Engine(Source.LEARNER, self.calls)
        actor: Any = Actor(self.calls)
        grader: Any = Grader(self.calls)
        self.rollouts = Rollouts(
            {1: self.explorer} if explores else {},
            self.learner,
            actor,
            Ranks(0, leaders=(0,), replica_of=(0,)),
            Grading(str, grader),
            concurrent=True,
            sleeps=sleeps,
        )

    def sample(self) -> list[tuple[int, int]]:
        """Sample and source of all completions."""
        completions = self.rollouts.sample(ASKS, Clock())
        return [(completion.sample_id, completion.source) for completion in completions]

    def of(self, engine: str) -> list[str]:
        """Calls of one engine since the last time: the two engines work at the same time."""
        mine = [call.partition(" ")[2] for call in self.calls if call.startswith(engine)]
        self.calls[:] = [call for call in self.calls if not call.startswith(engine)]
        return mine


def test_a_step_of_a_colocated_run() -> None:
    script = Script()
    assert script.sample() == [(0, Source.EXPLORER), (1, Source.LEARNER)]
    script.rollouts.sleep()
    script.rollouts.refit(4)
    assert script.rollouts.version == 4
    assert script.calls[0] == "actor release_memory"  # before an engine takes memory
    assert script.of("explorer") == ["resume", "generate", "sleep"]
    assert script.of("learner") == ["resume", "generate", "sleep", "update 4"]  # all awake at its next use


def test_engines_on_devices_of_their_own_never_sleep() -> None:
    script = Script(sleeps=False)
    script.rollouts.sleep()
    assert script.calls == []


def test_a_learner_lost_while_it_samples_is_refitted_and_asked_again() -> None:
    script = Script()
    script.rollouts.refit(4)
    script.calls.clear()
    script.learner.dies_in = ["generate", "generate"]
    assert script.sample() == [(0, Source.EXPLORER), (1, Source.LEARNER)]
    again = ["sleep", "restart", "sleep", "update 4", "resume", "generate"]
    assert script.of("learner") == ["resume", "generate", *again, *again]
    assert script.of("explorer") == ["resume", "generate", "sleep", "sleep"]  # while the actor has its weights
    assert script.rollouts.metrics()["engine/restarts"] == 2


def test_a_learner_lost_in_its_refit_is_refitted_again() -> None:
    script = Script()
    script.learner.dies_in = ["update 5"]
    script.rollouts.refit(5)
    assert script.of("learner") == ["update 5", "sleep", "restart", "sleep", "update 5"]
    assert script.rollouts.version == 5


@pytest.mark.parametrize("call", ["resume", "sleep"])
def test_a_learner_lost_as_it_wakes_or_falls_asleep_is_refitted(call: str) -> None:
    script = Script()
    script.rollouts.refit(4)
    script.learner.dies_in = [call, *(["update 4"] if call == "sleep" else [])]  # a dead server takes no weights
    for _ in range(2):
        assert script.sample() == [(0, Source.EXPLORER), (1, Source.LEARNER)]
        script.rollouts.sleep()
    assert script.rollouts.metrics()["engine/restarts"] == 1


def test_a_learner_that_slept_since_its_refit_gets_its_weights_again() -> None:
    """As after a validation that a checkpoint follows."""
    script = Script()
    script.rollouts.refit(4)
    script.rollouts.sleep()
    assert script.of("learner") == ["update 4", "sleep"]
    script.rollouts.sleep()
    assert script.of("learner") == []  # it is asleep
    script.sample()
    assert script.of("learner") == ["update 4", "resume", "generate"]


def test_weights_alone_stay_awake_after_a_refit() -> None:
    """As if a checkpoint follows the refit at once: there was room for them beside the actor's."""
    script = Script()
    script.rollouts.sleep()
    script.rollouts.refit(4)
    script.calls.clear()
    script.rollouts.sleep()
    assert script.calls == []
    script.sample()
    assert script.of("learner") == ["resume", "generate"]


def test_engines_on_devices_of_their_own_are_refitted_without_sleep() -> None:
    script = Script(sleeps=False)
    script.learner.dies_in = ["update 5"]
    script.rollouts.refit(5)
    assert script.of("learner") == ["update 5", "restart", "update 5"]
    assert script.of("actor") == ["release_memory"]


def test_a_learner_lost_too_often_ends_the_run() -> None:
    script = Script()
    script.learner.dies_in = ["generate", "restart"]
    with pytest.raises(EngineDied, match="it died in restart"):
        script.sample()


def test_metrics_of_engines_in_other_processes() -> None:
    script = Script()
    script.explorer.restarts, script.learner.restarts = 2, 1
    none: dict[str, int | None] = {"refit/bytes": None, "refit/bytes_per_s": None, "engine/restarts": 3}
    assert script.rollouts.metrics() == none
    script.rollouts.refit(1)
    assert script.rollouts.metrics() == {"refit/bytes": 8, "refit/bytes_per_s": 4.0, "engine/restarts": 3}


@pytest.mark.parametrize("explores", [True, False])
def test_metrics_of_engines_in_this_process(explores: bool) -> None:
    script = Script(explores=explores)
    script.explorer.restarts = script.learner.restarts = None
    assert set(script.rollouts.metrics().values()) == {None}


def test_an_explorer_samples_ahead_while_others_work() -> None:
    script = Script(sleeps=False)
    script.rollouts.sample_ahead(ASKS)
    script.rollouts.refit(4)
    clock = Clock()
    completions = script.rollouts.sample(ASKS, clock)
    assert [(one.sample_id, one.source) for one in completions] == [(0, Source.EXPLORER), (1, Source.LEARNER)]
    assert script.of("explorer") == ["resume", "generate"]  # once
    assert script.of("learner") == ["update 4", "resume", "generate"]
    assert clock.seconds["explorer_ahead"] >= 0
    assert script.sample() == [(0, Source.EXPLORER), (1, Source.LEARNER)]
    assert script.of("explorer") == ["resume", "generate"]


def test_an_explorer_that_fails_ahead_fails_when_it_is_asked() -> None:
    script = Script(sleeps=False)
    script.explorer.dies_in = ["generate"]
    script.rollouts.sample_ahead(ASKS)
    script.rollouts.refit(4)
    with pytest.raises(EngineDied, match="it died in generate"):
        script.sample()


@pytest.mark.parametrize("explores", [True, False])
def test_close_ends_everything(explores: bool) -> None:
    script = Script(explores=explores)
    script.rollouts.close()
    assert script.calls == ["grader close", *(["explorer close"] if explores else []), "learner close"]
