"""The adapter's engines on several ranks: each holds shards, gets every bucket and answers every call."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from s2l_nemo.engines.embedded.engine import EmbeddedEngine, EmbeddedLearnerEngine
from s2l_nemo.engines.settings import EngineSettings
from s2l_nemo.engines.tensorrt_llm.engine import TensorRTExplorer, TensorRTLearner
from s2l_nemo.engines.tensorrt_llm.transport import Gpus
from s2l_nemo.models.precision import Precision
from s2l_nemo.types import Completion, SamplingParams, Source
from tests.agreement import assert_same_completions
from tests.engines.random_qwen3 import build_model, make_requests
from tests.engines.tensorrt_llm.host_gpus import ARGUMENTS, HostGpus
from tests.engines.tensorrt_llm.weights import WEIGHT_TAGS, buckets, weights

PARAMS = SamplingParams(max_new_tokens=16, stop_token_ids=(1, 2, 50, 51, 52, 53))
GREEDY = SamplingParams(max_new_tokens=16, stop_token_ids=(1, 2, 50, 51, 52, 53), temperature=0.0)
REQUESTS = make_requests(prompts=3, samples=2)
EVERYTHING = {*WEIGHT_TAGS, "kv_cache"}


@pytest.fixture(params=[2, 4])
def ranks(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def settings(folder: Path, source: Source, ranks: int) -> EngineSettings:
    return EngineSettings(
        source=source,
        key="model.path",
        path=str(folder),
        precision=Precision.fp32,
        device="cuda",
        max_batch_rows=64,
        max_sequence_length=48,
        tensor_parallel_size=ranks,
        memory_fraction=0.4,
    )


def explorer(folder: Path, ranks: int) -> TensorRTExplorer:
    return TensorRTExplorer(settings(folder, Source.EXPLORER, ranks))


def learner(folder: Path, ranks: int, gpus: Gpus | None = None) -> TensorRTLearner:
    return TensorRTLearner(settings(folder, Source.LEARNER, ranks), gpus)


def asleep(engine: TensorRTExplorer) -> list[set[str]]:
    return [worker.engine._asleep for worker in engine._llm.workers]


def expected(seed: int, version: int, params: SamplingParams = PARAMS, *, tied: bool = False) -> list[Completion]:
    engine = EmbeddedLearnerEngine(build_model(seed=0, tied=tied), source=Source.LEARNER, max_batch_rows=64)
    engine.update_weights([weights(seed, tied=tied)], version=version)
    return engine.generate(REQUESTS, params)


@pytest.mark.parametrize("params", [PARAMS, GREEDY], ids=["drawn", "greedy"])
def test_start_and_sample(folder: Path, fresh_ray: Any, ranks: int, params: SamplingParams) -> None:
    """Tokens and log-probs are those of one rank, and Ray has a CPU for each worker."""
    engine = explorer(folder, ranks)
    alone = EmbeddedEngine(build_model(seed=0), source=Source.EXPLORER, max_batch_rows=64)
    assert_same_completions(engine.generate(REQUESTS, params), alone.generate(REQUESTS, params))
    assert fresh_ray.started["num_cpus"] == ranks + 1
    uuids = engine._rpc("report_device_id")
    assert len(set(uuids)) == ranks
    assert len(set(engine._llm._collective_rpc("report_device_id", unique_reply_rank=1))) == 1


def test_ranks_hold_shards(folder: Path, ranks: int) -> None:
    shards = [worker.engine.shards for worker in explorer(folder, ranks)._llm.workers]
    full = weights(0)
    layer = "model.layers.0."
    for name, dim in ((f"{layer}self_attn.q_proj.weight", 0), (f"{layer}self_attn.o_proj.weight", 1)):
        assert torch.equal(torch.cat([shard[name] for shard in shards], dim), full[name])
        assert shards[0][name].shape[dim] == full[name].shape[dim] // ranks
    assert all(torch.equal(shard["model.norm.weight"], full["model.norm.weight"]) for shard in shards)


@pytest.mark.parametrize("tied", [False, True])
def test_a_refit_by_file_reaches_every_rank(folder: Path, tied_folder: Path, ranks: int, tied: bool) -> None:
    engine = learner(tied_folder if tied else folder, ranks)
    for version in (1, 2):
        engine.update_weights(buckets(weights(version, tied=tied)), version=version)
        assert_same_completions(engine.generate(REQUESTS, PARAMS), expected(version, version, tied=tied))
    assert_same_completions(engine.generate(REQUESTS, GREEDY), expected(2, 2, GREEDY, tied=tied))


def gpus_of(ranks: int) -> list[str]:
    """The UUIDs of the workers' GPUs, in another order than theirs."""
    return [f"GPU-double-{number}" for number in reversed(range(ranks))]


@pytest.mark.parametrize("tied", [False, True])
def test_a_refit_by_handles_reaches_every_rank(folder: Path, tied_folder: Path, ranks: int, tied: bool) -> None:
    """A bucket is copied once to each GPU, and each worker opens the handles of its own."""
    gpus = HostGpus(["GPU-of-another-engine", *gpus_of(ranks)])
    engine = learner(tied_folder if tied else folder, ranks, gpus)
    for version in (1, 2):
        engine.update_weights(buckets(weights(version, tied=tied)), version=version)
        assert_same_completions(engine.generate(REQUESTS, PARAMS), expected(version, version, tied=tied))
    assert gpus.collected == 2
    sent = [len(bucket) for _ in range(2) for bucket in buckets(weights(1, tied=tied))]
    assert sorted(gpus.copied) == sorted((name, size) for size in sent for name in gpus_of(ranks))
    assert sorted(gpus.opened) == sorted(name for name in gpus_of(ranks) for _ in range(sum(sent)))


def test_a_worker_on_a_gpu_that_the_server_does_not_see(folder: Path, ranks: int) -> None:
    with pytest.raises(RuntimeError, match="uses GPU-double-0, a GPU that its server does not see"):
        learner(folder, ranks, HostGpus(gpus_of(ranks)[:-1]))


def test_handles_of_this_torch_have_the_device_where_a_worker_puts_its_own() -> None:
    """rlhf_utils.py sets arguments[6]."""
    assert ARGUMENTS[6] == "storage_device"


def test_a_rank_that_misses_a_bucket_shows(folder: Path, ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test of the test above: one rank keeps its old shards."""
    engine = learner(folder, ranks)
    last = engine._llm.workers[-1].engine

    def keep(_: Any) -> None:
        last._missing = set()

    monkeypatch.setattr(last, "load", keep)
    engine.update_weights(buckets(weights(1)), version=1)
    assert engine.generate(REQUESTS, PARAMS) != expected(1, 1)


def test_a_rank_that_fails_ends_the_update(folder: Path, ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = learner(folder, ranks)
    last = engine._llm.workers[-1].engine

    def fail(_: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(last, "load", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            engine.update_weights(buckets(weights(1)), version=1)
    with pytest.raises(RuntimeError, match="version 1 is incomplete"):
        engine.generate(REQUESTS, PARAMS)
    engine.update_weights(buckets(weights(1)), version=2)
    assert_same_completions(engine.generate(REQUESTS, PARAMS), expected(1, 2))


def test_every_rank_sleeps_and_wakes(folder: Path, ranks: int) -> None:
    engine = explorer(folder, ranks)
    before = engine.generate(REQUESTS, PARAMS)
    engine.sleep()
    assert asleep(engine) == [EVERYTHING] * ranks
    engine.resume()
    assert asleep(engine) == [set()] * ranks
    assert_same_completions(engine.generate(REQUESTS, PARAMS), before)


def test_a_step_of_a_colocated_run(folder: Path, ranks: int) -> None:
    engine = learner(folder, ranks)
    for version in (1, 2):
        engine.sleep()
        assert asleep(engine) == [EVERYTHING] * ranks
        engine.update_weights(buckets(weights(version)), version=version)
        assert asleep(engine) == [{"kv_cache"}] * ranks
        engine.resume()
        assert_same_completions(engine.generate(REQUESTS, PARAMS), expected(version, version))


def test_a_new_engine_after_a_restart(folder: Path, fresh_ray: Any, ranks: int) -> None:
    """What a restarted server does: a new engine, the weights of the folder, then all weights again."""
    with closing(learner(folder, ranks)) as first:
        first.update_weights(buckets(weights(1)), version=1)
        before = first.generate(REQUESTS, PARAMS)
    assert not fresh_ray.is_initialized()
    second = learner(folder, ranks)
    assert second.generate(REQUESTS, PARAMS) != before
    second.update_weights(buckets(weights(1)), version=1)
    assert_same_completions(second.generate(REQUESTS, PARAMS), before)


def test_more_ranks_than_heads_can_be_shared_by(folder: Path, fresh_ray: Any) -> None:
    with pytest.raises(ValueError, match="tensor_parallel_size=3 does not divide 4 attention heads"):
        explorer(folder, 3)
    assert not fresh_ray.is_initialized()
