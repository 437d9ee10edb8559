"""Actor and engines on the same devices: who takes memory when, on two ranks of which one speaks to the engines."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from s2l_nemo.engines.absent import AbsentEngine, AbsentLearnerEngine
from s2l_nemo.engines.protocol import Bucket, EngineDied, LocalEngine, RefitStats
from s2l_nemo.trainer.clock import Clock
from s2l_nemo.trainer.rollouts import Ask, Rollouts
from s2l_nemo.types import Completion, SampleRequest, SamplingParams, Source
from tests.trainer.world import ThreadRanks, on_all_ranks

PARAMS = SamplingParams(max_new_tokens=1, stop_token_ids=())
REQUESTS = [SampleRequest(0, 0, (1,), seed=5)]
ASKS = [Ask(Source.EXPLORER, REQUESTS, PARAMS), Ask(Source.LEARNER, REQUESTS, PARAMS)]


class Device:
    """The memory of devices that two ranks and their engines share. Fails if two hold what has no room beside it.

    An actor holds its weights, and a cache of what it has freed. An engine holds weights and a KV cache.
    """

    FORBIDDEN = (
        ("actor weights", "KV cache"),
        ("actor cache", "learner weights"),
        ("actor cache", "explorer weights"),
        ("actor cache", "KV cache"),
        ("actor weights", "explorer weights"),
    )

    def __init__(self) -> None:
        self.held: set[str] = set()
        self.log: list[str] = []
        self._lock = threading.Lock()

    def take(self, *parts: str) -> None:
        with self._lock:
            self.held.update(parts)
            self.log += [f"+ {part}" for part in parts]
            for one, other in self.FORBIDDEN:
                together = [part for part in self.held if one in part], [part for part in self.held if other in part]
                assert not all(together), f"no room for {together}"

    def give(self, *parts: str) -> None:
        with self._lock:
            self.held.difference_update(parts)
            self.log += [f"- {part}" for part in parts]


class Actor:
    """That of rank 1 is slow to give memory back: who does not wait for it finds no room."""

    def __init__(self, device: Device, rank: int) -> None:
        self.device, self.weights, self.cache = device, f"actor weights {rank}", f"actor cache {rank}"
        self.slowly, self.seconds = threading.Event(), 0.03 * rank
        device.take(self.weights)

    def trains(self) -> None:
        self.device.take(self.weights)
        self.device.take(self.cache)

    def release_memory(self) -> None:
        self.slowly.wait(self.seconds)
        self.device.give(self.weights)

    def release_cache(self) -> None:
        self.slowly.wait(self.seconds)
        self.device.give(self.cache)

    def export_weights(self) -> Iterator[Bucket]:
        self.device.take(self.weights)
        yield {}


class Engine(LocalEngine):
    """Starts awake. `lost` are the calls in which its process dies, each once."""

    def __init__(self, device: Device, name: str) -> None:
        self.device, self.weights, self.kv = device, f"{name} weights", f"{name} KV cache"
        self.restarts: int | None = 0
        self.last_refit: RefitStats | None = None
        self.weight_version = 0
        self.lost: list[str] = []
        self.ended = False

    def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Completion]:
        self._call("generate")
        assert {self.weights, self.kv} <= self.device.held
        return []

    def weight_hash(self) -> str:
        return ""

    def resume(self) -> None:
        self._call("resume")
        self.device.take(self.weights, self.kv)

    def sleep(self) -> None:
        self._call("sleep")
        self.device.give(self.weights, self.kv)

    def restart(self) -> None:
        self.ended = False
        self.device.take(self.weights, self.kv)

    def update_weights(self, buckets: Iterable[Bucket], version: int) -> None:
        arriving = list(buckets)
        self._call("update")
        assert arriving == [{}]
        self.device.take(self.weights)

    def _call(self, name: str) -> None:
        if name in self.lost:
            self.lost.remove(name)
            self.ended = True
            self.device.give(self.weights, self.kv)
        if self.ended:
            raise EngineDied(f"it died in {name}")


def two_steps(lost: Sequence[str]) -> list[str]:
    """What is taken and given in two steps of training. The learner's engine is lost in the given calls."""
    device = Device()
    learner = Engine(device, "learner")
    started = threading.Barrier(2)

    def rank(ranks: ThreadRanks) -> None:
        actor: Any = Actor(device, ranks.rank)
        nothing: Any = None
        leads = ranks.rank == 0
        rollouts = Rollouts(
            {1: Engine(device, "explorer") if leads else AbsentEngine()},
            learner if leads else AbsentLearnerEngine(),
            actor,
            ranks,
            nothing,
            concurrent=True,
            sleeps=True,
        )
        started.wait()
        rollouts.sleep()
        rollouts.refit(0)
        learner.lost = list(lost)
        for step in (1, 2):
            rollouts.sample(ASKS, Clock())
            rollouts.sleep()
            actor.trains()
            rollouts.refit(step)

    on_all_ranks(rank, replica_of=(0, 0), leaders=(0,))
    return [line for line in device.log if "actor" not in line or line.startswith("-")]


def test_no_engine_takes_memory_before_every_actor_has_given_its_own_back() -> None:
    assert two_steps([])[-1] == "+ learner weights"


def test_nor_if_the_learner_is_lost_wherever_it_can_be() -> None:
    for call in ("resume", "generate", "sleep", "update"):
        assert two_steps([call])[-1] == "+ learner weights"
    assert two_steps(["generate", "generate", "update", "sleep"])[-1] == "+ learner weights"
