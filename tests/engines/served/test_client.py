"""What the client asks its server, and when: a scripted connection instead of a process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.engines.options import EngineConfig
from s2l_nemo.engines.protocol import EngineDied, EngineError
from s2l_nemo.engines.served import client
from s2l_nemo.engines.served.client import ServedEngine, ServedLearnerEngine
from s2l_nemo.engines.served.process import Launch
from s2l_nemo.engines.settings import EngineSettings
from s2l_nemo.models.precision import Precision
from s2l_nemo.types import SamplingParams, Source

SETTINGS = EngineSettings(Source.EXPLORER, "explorer.path", "small", Precision.fp32, "cpu", 8, 64, 1, 0.4)
LAUNCH = Launch("package:maker", SETTINGS, "python", None, Path("log"), startup_s=1.0)


class Server:
    """What all connections of a test have asked. `lost` are the numbers of the requests at which the server dies."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.lost: set[int] = set()
        self.hashes = iter(["ab"] * 10)

    def connect(self, launch: Launch) -> Any:
        assert launch is LAUNCH
        self.asked.append("start")
        return self

    def ask(self, path: str, body: bytes, seconds: float, deadline: str) -> tuple[dict[str, Any], dict[str, Any]]:
        self.asked.append(path)
        if len(self.asked) in self.lost:
            raise EngineDied("it died")
        return ({"hash": next(self.hashes)} if path == "/weight_hash" else {}), {}

    def end(self) -> None:
        self.asked.append("end")

    def last_words(self) -> str:
        return "the log ends"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    scripted = Server()
    monkeypatch.setattr(client, "Connection", scripted.connect)
    return scripted


def test_sleep_and_resume_are_asked_once(server: Server) -> None:
    engine = ServedEngine(LAUNCH, EngineConfig())
    engine.resume()
    engine.sleep()
    engine.sleep()
    engine.resume()
    engine.resume()
    engine.sleep()
    assert server.asked == ["start", "/sleep", "/resume", "/sleep"]


@pytest.mark.parametrize("kind", [ServedEngine, ServedLearnerEngine])
def test_an_engine_is_awake_after_a_restart(server: Server, kind: type[ServedEngine]) -> None:
    engine = kind(LAUNCH, EngineConfig())
    engine.sleep()
    engine.restart()
    engine.resume()
    assert server.asked == ["start", "/sleep", "end", "start"]
    assert engine.restarts == 1


def test_an_explorer_that_dies_as_it_falls_asleep_is_put_to_sleep_again(server: Server) -> None:
    engine = ServedEngine(LAUNCH, EngineConfig())
    server.lost = {2}
    engine.sleep()
    engine.resume()
    assert server.asked == ["start", "/sleep", "end", "start", "/sleep", "/resume"]


def test_an_explorer_that_dies_asleep_wakes_up(server: Server) -> None:
    engine = ServedEngine(LAUNCH, EngineConfig())
    engine.sleep()
    server.lost = {3}
    engine.resume()
    engine.resume()
    assert server.asked == ["start", "/sleep", "/resume", "end", "start", "/resume"]


def test_a_healed_explorer_has_the_same_weights(server: Server) -> None:
    engine = ServedEngine(LAUNCH, EngineConfig())
    server.hashes = iter(["ab", "ab", "cd"])
    engine.weight_hash()
    server.lost = {3}
    engine.sleep()
    assert server.asked == ["start", "/weight_hash", "/sleep", "end", "start", "/weight_hash", "/sleep"]
    server.lost = {8}
    with pytest.raises(EngineError, match=r"the explorer engine \(explorer.path=small\) has other weights"):
        engine.resume()


def test_a_learner_does_not_heal_itself(server: Server) -> None:
    engine = ServedLearnerEngine(LAUNCH, EngineConfig())
    server.lost = {2}
    with pytest.raises(EngineDied):
        engine.sleep()
    assert server.asked == ["start", "/sleep"]
    engine.restart()
    with pytest.raises(EngineError, match="has been restarted: update its weights first"):
        engine.generate([], SamplingParams(4, ()))


def test_lost_too_often(server: Server) -> None:
    engine = ServedEngine(LAUNCH, EngineConfig(max_restarts=1))
    engine.restart()
    with pytest.raises(EngineDied, match=r"was lost 2 times, more than engine.max_restarts=1; the log ends"):
        engine.restart()
