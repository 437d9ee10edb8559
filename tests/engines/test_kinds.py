"""A kind of engine from outside is one registration: the configuration, the factory and the planner know it then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from s2l_nemo.config.checks import check_config
from s2l_nemo.config.load import help_text, load_config
from s2l_nemo.engines.absent import AbsentEngine, AbsentLearnerEngine
from s2l_nemo.engines.build import EngineFactory, Servers, make_engines
from s2l_nemo.engines.kinds import ENGINES, EngineKind
from s2l_nemo.engines.options import EngineConfig
from s2l_nemo.engines.protocol import Bucket
from s2l_nemo.errors import UserError
from s2l_nemo.models.open import Model, open_model
from s2l_nemo.models.precision import Precision
from s2l_nemo.planner import cost
from s2l_nemo.types import Completion, SampleRequest, SamplingParams, Source
from tests.arrays import ids, lps
from tests.engines.scripted import ScriptedEngine, ScriptedLearnerEngine, ScriptedMaker, write_model
from tests.models.shapes import small_shape
from tests.registered import registered

CONF = Path(__file__).resolve().parents[2] / "conf"
SERVED = EngineKind("tests.engines.scripted:MAKER", served=True, tensor_parallel=True)
REQUESTS = [SampleRequest(prompt_id=1, sample_id=2, prompt_token_ids=(5, 6, 7), seed=3)]
PARAMS = SamplingParams(max_new_tokens=2, stop_token_ids=())


def named(key: str, path: str) -> Model:
    """A model of which only the name matters."""
    return Model(key, path, {}, small_shape(), Path(path))


SMALL, LARGE = named("explorer.path", "small"), named("model.path", "large")


def factory(kind: str, servers: Servers | None = None) -> EngineFactory:
    config = EngineConfig(kind=kind, tensor_parallel_size=2, memory_fraction=0.3)
    return EngineFactory(config, Precision.bf16, torch.device("cpu"), 8, 64, servers)


@pytest.fixture
def maker() -> Iterator[ScriptedMaker]:
    scripted = ScriptedMaker()
    with registered(ENGINES, "mine", EngineKind(scripted)):
        yield scripted


@pytest.fixture
def served() -> Iterator[EngineKind]:
    with registered(ENGINES, "mine", SERVED) as kind:
        yield kind


def completion(source: Source, version: int) -> Completion:
    return Completion(1, 2, source, ids([7, 6]), lps([-0.5, -0.5]), "length", version)


def test_both_engines_in_this_process(maker: ScriptedMaker) -> None:
    (explorer,), learner = make_engines(factory("mine"), explorers=[SMALL], learner=LARGE)
    assert maker.made == [explorer, learner]
    assert isinstance(explorer, ScriptedEngine)
    assert isinstance(learner, ScriptedLearnerEngine)
    expected = {
        "precision": "bf16",
        "device": "cpu",
        "max_batch_rows": 8,
        "max_sequence_length": 64,
        "tensor_parallel_size": 2,
        "memory_fraction": 0.3,
    }
    assert explorer.settings.to_json() == expected | {"source": "EXPLORER", "key": "explorer.path", "path": "small"}
    assert learner.settings.to_json() == expected | {"source": "LEARNER", "key": "model.path", "path": "large"}
    learner.update_weights([{"a": torch.ones(1)}, {"b": torch.ones(1)}], version=4)
    assert learner.names == ["a", "b"]
    assert explorer.generate(REQUESTS, PARAMS) == [completion(Source.EXPLORER, 0)]
    assert learner.generate(REQUESTS, PARAMS) == [completion(Source.LEARNER, 4)]


def test_explorers_of_one_model_share_an_engine(maker: ScriptedMaker) -> None:
    other = named("explorers.other.path", "other")
    explorers, learner = make_engines(factory("mine"), explorers=[SMALL, other, SMALL], learner=LARGE)
    assert explorers[0] is explorers[2]
    assert maker.made == [explorers[0], explorers[1], learner]


def test_plain_grpo_has_no_explorer(maker: ScriptedMaker) -> None:
    explorers, learner = make_engines(factory("mine"), explorers=[], learner=LARGE)
    assert explorers == []
    assert isinstance(learner, ScriptedLearnerEngine)
    assert maker.made == [learner]


def test_an_explorer_does_not_outlive_a_learner_that_cannot_be_made(maker: ScriptedMaker) -> None:
    with pytest.raises(UserError, match=r"model\.path=nowhere"):
        make_engines(factory("mine"), explorers=[SMALL], learner=named("model.path", "nowhere"))
    assert [engine.closed for engine in maker.made] == [True]


def test_an_engine_in_this_process_cannot_be_lost(maker: ScriptedMaker) -> None:
    engine = factory("mine").learner(LARGE)
    assert isinstance(engine, ScriptedLearnerEngine)
    assert engine.restarts is None
    engine.sleep()
    engine.resume()
    with pytest.raises(RuntimeError, match="cannot be lost and so not restarted"):
        engine.restart()
    assert maker.made == [engine]


@pytest.mark.usefixtures("served")
def test_both_engines_in_servers(tmp_path: Path) -> None:
    """The server imports the maker by its name; nobody has registered the kind there."""
    models = {name: open_model("model.path", write_model(tmp_path / name)) for name in ("small", "large")}
    servers = Servers(0, tmp_path / "logs", rank=3)
    (explorer,), learner = make_engines(factory("mine", servers), explorers=[models["small"]], learner=models["large"])
    with closing(explorer), closing(learner):
        learner.update_weights([{"a": torch.ones(2)}], version=4)
        assert explorer.generate(REQUESTS, PARAMS) == [completion(Source.EXPLORER, 0)]
        assert learner.generate(REQUESTS, PARAMS) == [completion(Source.LEARNER, 4)]
        assert (explorer.weight_hash(), explorer.restarts) == (str(tmp_path / "small"), 0)
        assert learner.last_refit is not None
        assert learner.last_refit.bytes == 8
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"explorer_rank3.log", "learner_rank3.log"}


@pytest.mark.usefixtures("served")
def test_a_rank_that_speaks_to_no_server() -> None:
    (explorer,), learner = make_engines(factory("mine"), explorers=[SMALL], learner=LARGE)
    assert isinstance(explorer, AbsentEngine)
    assert isinstance(learner, AbsentLearnerEngine)
    made: list[int] = []

    def buckets() -> Iterator[Bucket]:
        for index in range(3):
            made.append(index)
            yield {}

    learner.update_weights(buckets(), version=1)
    assert made == [0, 1, 2]  # making them is collective
    for engine in (explorer, learner):
        engine.sleep()
        engine.resume()
        assert engine.generate([], PARAMS) == []
        assert engine.restarts is None
        engine.close()


def test_a_served_kind_names_its_maker() -> None:
    with pytest.raises(TypeError, match="names its maker by a text"):
        EngineKind(ScriptedMaker(), served=True)


def test_the_configuration_knows_it(maker: ScriptedMaker) -> None:
    cfg = load_config(["engine.kind=mine"], CONF)
    check_config(cfg)
    assert "embedded | server | tensorrt_llm | vllm | mine" in help_text(CONF)
    assert cost.engines_of(cfg) == cost.Engines(count=cfg.trainer.devices, gpus=1)
    cfg.engine.python = "/opt/python"
    with pytest.raises(UserError, match=r"engine.python=/opt/python with engine.kind=mine: only servers"):
        check_config(cfg)
    assert maker.made == []


@pytest.mark.usefixtures("served")
def test_the_planner_knows_it() -> None:
    cfg = load_config(["engine.kind=mine", "engine.tensor_parallel_size=4", "trainer.num_nodes=2"], CONF)
    assert cost.engines_of(cfg) == cost.Engines(count=2, gpus=4)


def test_an_unknown_kind() -> None:
    with pytest.raises(UserError, match=r"engine.kind=mine: expected embedded \| server \| tensorrt_llm"):
        load_config(["engine.kind=mine"], CONF)
    with pytest.raises(UserError, match=r"engine\.kind=mine is unknown: choose one of embedded, server, tensorrt_llm"):
        factory("mine").learner(LARGE)
