"""The adapter on the double of tensorrt_llm, and that the double refuses misuse."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from s2l_nemo.engines.embedded.engine import EmbeddedEngine, EmbeddedLearnerEngine
from s2l_nemo.engines.settings import EngineSettings
from s2l_nemo.engines.tensorrt_llm.engine import TensorRTExplorer, TensorRTLearner, Transport
from s2l_nemo.errors import UserError
from s2l_nemo.models.precision import Precision
from s2l_nemo.types import Completion, SamplingParams, Source
from tests.agreement import assert_same_completions
from tests.engines.random_qwen3 import build_model, make_requests

DOUBLES = Path(__file__).resolve().parents[2] / "doubles"
STOPS = (1, 2, 50, 51, 52, 53)
PARAMS = SamplingParams(max_new_tokens=16, stop_token_ids=STOPS)
WEIGHT_TAGS = [
    "sampler", "drafter", "guided_decoder", "spec_resource_manager",
    "model_extra", "executor_extra", "model", "draft_model",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def double() -> Iterator[Any]:
    """tensorrt_llm is the double, in an environment without a launcher's variables, for the tests of this file."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(("PMI", "OMPI", "SLURM"))]:
        del os.environ[name]
    sys.path.insert(0, str(DOUBLES))
    import tensorrt_llm

    yield tensorrt_llm
    sys.path.remove(str(DOUBLES))
    for name in [name for name in sys.modules if name.startswith(("tensorrt_llm", "s2l_nemo.engines.tensorrt_llm.w"))]:
        del sys.modules[name]
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qwen3")
    build_model(seed=0).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def tied_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tied")
    build_model(tied=True, seed=0).save_pretrained(path)
    return path


def settings(folder: Path, source: Source, precision: Precision = Precision.fp32) -> EngineSettings:
    return EngineSettings(
        source=source,
        key="model.path",
        path=str(folder),
        precision=precision,
        device="cuda",
        max_batch_rows=64,
        max_sequence_length=48,
        tensor_parallel_size=1,
        memory_fraction=0.4,
    )


def explorer(folder: Path, precision: Precision = Precision.fp32) -> TensorRTExplorer:
    return TensorRTExplorer(settings(folder, Source.EXPLORER, precision))


def learner(folder: Path, transport: Transport = "file") -> TensorRTLearner:
    return TensorRTLearner(settings(folder, Source.LEARNER), transport)


def embedded(model: Any, source: Source = Source.EXPLORER) -> EmbeddedEngine:
    return EmbeddedEngine(model, source=source, max_batch_rows=64)


def weights(seed: int, *, tied: bool = False) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in build_model(seed=seed, tied=tied).named_parameters()}


def buckets(tensors: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """What is outside the layers, attention and MLP of each layer: a bucket each."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        pieces = name.split(".")
        key = ".".join(pieces[1:4]) if pieces[1] == "layers" else "other"
        parts.setdefault(key, {})[name] = tensor
    return list(parts.values())


# --- the adapter ---


@pytest.mark.parametrize(
    "params",
    [
        PARAMS,
        replace(PARAMS, temperature=0.7, top_p=0.9, top_k=20),
        replace(PARAMS, temperature=0.0),
        replace(PARAMS, presence_penalty=1.5),
    ],
    ids=["plain", "filtered", "greedy", "penalty"],
)
@pytest.mark.parametrize("make", [explorer, learner])
def test_samples_equal_the_embedded_engines(folder: Path, make: Any, params: SamplingParams) -> None:
    requests = make_requests(prompts=4, samples=4)
    engine = make(folder)
    source = Source.LEARNER if make is learner else Source.EXPLORER
    completions = engine.generate(requests, params)
    assert_same_completions(completions, embedded(build_model(seed=0), source).generate(requests, params))
    assert {completion.finish_reason for completion in completions} == {"stop", "length"}
    engine.close()


def test_engine_arguments(folder: Path) -> None:
    args = explorer(folder)._llm.args
    assert (args.sampler_type, args.dtype, args.max_batch_size, args.max_seq_len) == (
        "TRTLLMSampler",
        "float32",
        64,
        48,
    )
    assert args.kv_cache_config.enable_block_reuse
    assert args.kv_cache_config.free_gpu_memory_fraction == 0.4
    # Ray workers import the extension from here
    assert str(Path(__file__).resolve().parents[3]) in os.environ["PYTHONPATH"].split(os.pathsep)


def test_no_requests(folder: Path) -> None:
    assert explorer(folder).generate([], PARAMS) == []


def test_too_long(folder: Path) -> None:
    requests = make_requests(prompts=1, samples=1)
    length = len(requests[0].prompt_token_ids)
    engine = explorer(folder)
    assert engine.generate(requests, replace(PARAMS, max_new_tokens=48 - length))
    with pytest.raises(ValueError, match=r"exceeds the engine's 48 positions: lower max_new_tokens"):
        engine.generate(requests, replace(PARAMS, max_new_tokens=49 - length))


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("tied", [False, True])
def test_weight_hash_equals_the_embedded_engines(tmp_path: Path, tied: bool, precision: Precision) -> None:
    model = build_model(tied=tied, seed=3)
    model.save_pretrained(tmp_path, max_shard_size="20KB")  # several files
    assert (tmp_path / "model.safetensors.index.json").is_file()
    dtype = settings(tmp_path, Source.EXPLORER, precision).dtype
    assert explorer(tmp_path, precision).weight_hash() == embedded(model.to(dtype)).weight_hash()


def test_a_tied_head_in_the_file_is_not_a_weight(tmp_path: Path, tied_folder: Path) -> None:
    """Files of some Qwen3 models have it."""
    tensors = load_file(tied_folder / "model.safetensors")
    save_file(
        {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, tmp_path / "model.safetensors"
    )
    (tmp_path / "config.json").write_text((tied_folder / "config.json").read_text())
    assert explorer(tmp_path).weight_hash() == explorer(tied_folder).weight_hash()


def test_explorer_sleeps_and_samples_the_same(folder: Path) -> None:
    requests = make_requests(prompts=2, samples=2)
    engine = explorer(folder)
    before = engine.generate(requests, PARAMS)
    engine.sleep()
    engine.sleep()
    assert engine._llm._worker.engine._asleep == {*WEIGHT_TAGS, "kv_cache"}
    with pytest.raises(RuntimeError, match="the engine sleeps"):
        engine.generate(requests, PARAMS)
    engine.resume()
    engine.resume()
    assert_same_completions(engine.generate(requests, PARAMS), before)
    assert not hasattr(engine, "update_weights")


@pytest.mark.parametrize("tied", [False, True])
def test_update_weights(folder: Path, tied_folder: Path, tied: bool) -> None:
    requests = make_requests(prompts=3, samples=2)
    engine = learner(tied_folder if tied else folder)
    before = engine.generate(requests, PARAMS)
    assert engine.weight_version == 0
    assert engine.weight_hash() == embedded(build_model(seed=0, tied=tied)).weight_hash()
    engine.update_weights(iter(buckets(weights(1, tied=tied))), version=7)
    after = engine.generate(requests, PARAMS)
    expected = EmbeddedLearnerEngine(build_model(seed=1, tied=tied), source=Source.LEARNER, max_batch_rows=64)
    expected.update_weights([weights(1, tied=tied)], version=7)
    assert_same_completions(after, expected.generate(requests, PARAMS))
    assert engine.weight_version == 7
    assert [c.token_ids for c in after] != [c.token_ids for c in before]
    with pytest.raises(RuntimeError, match="cannot read back"):
        engine.weight_hash()


def test_a_step_of_a_colocated_run(folder: Path) -> None:
    requests = make_requests(prompts=2, samples=2)
    engine = learner(folder)
    memory = engine._llm._worker.engine
    for version in (1, 2):
        engine.sleep()
        assert memory._asleep == {*WEIGHT_TAGS, "kv_cache"}
        engine.update_weights(buckets(weights(version)), version=version)
        assert memory._asleep == {"kv_cache"}  # the actor still needs the memory
        engine.resume()
        completions = engine.generate(requests, PARAMS)
        assert {completion.weight_version for completion in completions} == {version}
    engine.sleep()
    engine.resume()
    with pytest.raises(RuntimeError, match="sleep released the weights: send all weights again"):
        engine.generate(requests, PARAMS)


def test_sleep_right_after_an_update_gives_the_weights_back(folder: Path) -> None:
    engine = learner(folder)
    engine.sleep()
    engine.update_weights(buckets(weights(1)), version=1)
    engine.sleep()
    assert engine._llm._worker.engine._asleep == {*WEIGHT_TAGS, "kv_cache"}


def broken_updates() -> Iterator[Any]:
    full = weights(1)
    norm, query = "model.norm.weight", "model.layers.0.self_attn.q_proj.weight"
    up = "model.layers.1.mlp.up_proj.weight"

    def without(*names: str) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in full.items() if name not in names}

    yield pytest.param([without(norm)], f"1 tensors are missing, first {norm}", id="missing")
    yield pytest.param([full, {"model.extra": full[norm]}], "no tensor model.extra", id="unknown")
    yield pytest.param([full, {norm: full[norm]}], f"tensor {norm} came twice", id="repeated")
    yield pytest.param([without(norm), {norm: full[norm][:-1]}], r"shape \(31,\), the model's has \(32,\)", id="shape")
    yield pytest.param([without(query), {query: full[query]}], "came without .*q_proj.*fused", id="query apart")
    yield pytest.param([{up: full[up]}, without(up)], "came without .*gate_proj.*fused", id="up apart")


@pytest.mark.parametrize(("sent", "message"), list(broken_updates()))
def test_an_incomplete_update_is_refused_until_a_complete_one(folder: Path, sent: Any, message: str) -> None:
    requests = make_requests(prompts=1, samples=1)
    engine = learner(folder)
    with pytest.raises(ValueError, match=f"weight version 3: .*{message}"):
        engine.update_weights(sent, version=3)
    with pytest.raises(RuntimeError, match="the update to weight version 3 is incomplete: send all weights again"):
        engine.generate(requests, PARAMS)
    assert engine.weight_version == 0
    engine.update_weights(buckets(weights(1)), version=4)
    assert engine.generate(requests, PARAMS)[0].weight_version == 4


def test_a_bucket_that_fails_in_the_engine(folder: Path, double: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = learner(folder)
    loaded: list[Any] = []
    load = type(engine._llm._worker.engine).load

    def second_fails(self: Any, bucket: Any) -> None:
        loaded.append(bucket)
        if len(loaded) == 2:
            raise RuntimeError("out of memory")
        load(self, bucket)

    monkeypatch.setattr(type(engine._llm._worker.engine), "load", second_fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.update_weights(buckets(weights(1)), version=1)
    assert len(loaded) == 2
    with pytest.raises(RuntimeError, match="version 1 is incomplete"):
        engine.generate(make_requests(1, 1), PARAMS)
    engine.update_weights(buckets(weights(1)), version=1)
    assert engine.generate(make_requests(1, 1), PARAMS)[0].weight_version == 1


def test_the_transfer_leaves_no_file_behind(folder: Path) -> None:
    shared = Path("/dev/shm")
    before = set(shared.glob("s2l-refit-*"))
    learner(folder).update_weights(buckets(weights(1)), version=1)
    assert set(shared.glob("s2l-refit-*")) == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_transport_by_cuda_handles(folder: Path) -> None:
    by_file, by_handles = learner(folder), learner(folder, "ipc")
    results = []
    for engine in (by_file, by_handles):
        engine.update_weights(buckets(weights(1)), version=1)
        results.append(engine.generate(make_requests(2, 2), PARAMS))
    assert results[0] == results[1]


def scripted(change: Callable[[Any], None]) -> Callable[[list[Any]], None]:
    return lambda outputs: change(outputs[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda output: setattr(output, "finish_reason", "timeout"), "prompt 0 sample 0: .* 'timeout'"),
        (lambda output: setattr(output, "finish_reason", "cancelled"), "'cancelled'"),
        (lambda output: output.token_ids.pop(), "no stop token"),
        (lambda output: output.logprobs.pop(), r"\d+ tokens have \d+ log-probs"),
        (
            lambda output: output.logprobs.__setitem__(0, {96: SimpleNamespace(logprob=-1.0)}),
            "position 0 has no log-prob",
        ),
    ],
    ids=["timeout", "cancelled", "cut", "short", "another token"],
)
def test_results_that_cannot_be_trained_on(
    folder: Path, double: Any, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], None], message: str
) -> None:
    requests = make_requests(prompts=1, samples=1)
    engine = explorer(folder)
    first = engine.generate(requests, PARAMS)[0]
    assert first.token_ids[0] != 96
    monkeypatch.setattr(double.LLM, "script", scripted(change))
    with pytest.raises(RuntimeError, match=message):
        engine.generate(requests, PARAMS)


def test_the_sampled_tokens_log_prob_is_taken(folder: Path, double: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the first of the list, which is the most likely token's where a sampler lists that one too."""
    requests = make_requests(prompts=1, samples=1)
    engine = explorer(folder)
    expected: list[Completion] = engine.generate(requests, PARAMS)

    def list_another_first(output: Any) -> None:
        output.logprobs = [{96: SimpleNamespace(logprob=-0.1), **logprobs} for logprobs in output.logprobs]

    monkeypatch.setattr(double.LLM, "script", scripted(list_another_first))
    assert 96 not in expected[0].token_ids
    assert_same_completions(engine.generate(requests, PARAMS), expected)


def test_without_the_library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_llm", None)
    with pytest.raises(UserError, match=r"has no module tensorrt_llm; set engine\.python"):
        explorer(folder)


def test_another_version_of_the_library(folder: Path, double: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(double, "__version__", "1.3.0")
    with pytest.raises(UserError, match=r"found tensorrt_llm 1\.3\.0; set engine\.python .* tensorrt_llm 1\.2\.x"):
        explorer(folder)


def test_no_hugging_face_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"convert it with tools/convert_nemo_to_hf\.py"):
        explorer(tmp_path)


# --- the double refuses ---

GOOD: dict[str, Any] = {
    "max_tokens": 8,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "seed": 1,
    "end_id": -1,
    "stop_token_ids": [1],
    "include_stop_str_in_output": True,
    "detokenize": False,
    "logprobs": 1,
}
LLM_ARGS: dict[str, Any] = {
    "skip_tokenizer_init": True,
    "dtype": "float32",
    "sampler_type": "TRTLLMSampler",
    "enable_sleep": True,
    "orchestrator_type": "ray",
    "ray_worker_extension_cls": "s2l_nemo.engines.tensorrt_llm.worker.RefitExtension",
}


def llm(double: Any, folder: Path, **changed: Any) -> Any:
    return double.LLM(str(folder), **{**LLM_ARGS, **changed})


def generate(engine: Any, double: Any, *changes: dict[str, Any]) -> Any:
    """One request of the same prompt for each of `changes`."""
    params = [double.SamplingParams(**{**GOOD, **change}) for change in changes]
    return engine.generate([[5, 6, 7]] * len(params), params)


def test_the_double_accepts_good_calls(double: Any, folder: Path) -> None:
    first, second = generate(llm(double, folder), double, {}, {"seed": 2})
    assert first.finished
    assert first.outputs[0].token_ids != second.outputs[0].token_ids


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"max_new_tokens": 8}, TypeError, "max_new_tokens"),
        ({"max_tokens": "8"}, TypeError, "max_tokens must be"),
        ({"top_k": 1.5}, TypeError, "top_k must be"),
        ({"seed": True}, TypeError, "seed must be"),
        ({"stop_token_ids": (1,)}, TypeError, "stop_token_ids must be"),
        ({"top_p": 1.5}, ValueError, "top_p"),
        ({"top_k": -1}, ValueError, "top_k"),
        ({"temperature": -1.0}, ValueError, "temperature"),
        ({"seed": None}, RuntimeError, "seed is None"),
        ({"logprobs": 0}, RuntimeError, "logprobs=0"),
        ({"logprobs": None}, RuntimeError, "logprobs=None"),
        ({"temperature": None, "top_p": None, "top_k": None}, RuntimeError, "this is greedy"),
        ({"end_id": None}, ValueError, "tokenizer is required"),
        ({"end_id": 1}, RuntimeError, "end_id=1"),
        ({"stop_token_ids": []}, RuntimeError, "no stop_token_ids"),
        ({"detokenize": True}, RuntimeError, "detokenize"),
        ({"n": 2}, RuntimeError, "n, best_of"),
        ({"presence_penalty": 1.0}, RuntimeError, "prompt_ignore_length=None"),
        ({"presence_penalty": 1.0, "prompt_ignore_length": 2}, RuntimeError, "prompt_ignore_length=2"),
    ],
    ids=str,
)
def test_the_double_refuses_sampling_params(
    double: Any, folder: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        generate(llm(double, folder), double, change)


def test_the_double_refuses_equal_seeds_of_one_prompt(double: Any, folder: Path) -> None:
    engine = llm(double, folder)
    with pytest.raises(double.Misuse, match="two requests of one prompt have seed 1"):
        generate(engine, double, {}, {})
    assert len(generate(llm(double, folder), double, {"top_k": 1}, {"top_k": 1})) == 2  # greedy


def test_the_double_refuses_params_that_are_used_again_or_changed(double: Any, folder: Path) -> None:
    engine = llm(double, folder)
    params = double.SamplingParams(**GOOD)
    engine.generate([[5]], [params])
    with pytest.raises(double.Misuse, match="submitted twice"):
        engine.generate([[5]], [params])
    params = double.SamplingParams(**GOOD)
    params.seed = 9
    with pytest.raises(double.Misuse, match="changed after it was built"):
        engine.generate([[5]], [params])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"max_new_tokens": 4}, ValueError, "extra inputs are not permitted"),
        ({"tensor_parallel_size": "1"}, TypeError, "tensor_parallel_size must be"),
        ({"dtype": "fp32"}, ValueError, "dtype='fp32'"),
        ({"sampler_type": "Greedy"}, ValueError, "sampler_type='Greedy'"),
        ({"orchestrator_type": None}, ValueError, "only supported with orchestrator_type='ray'"),
        ({"ray_worker_extension_cls": "s2l_nemo.nothing.Extension"}, RuntimeError, "Failed to load worker extension"),
        ({"skip_tokenizer_init": False}, RuntimeError, "skip_tokenizer_init"),
        ({"kv_cache_config": {"enable_block_reuse": True}}, TypeError, "kv_cache_config must be"),
        ({"sampler_type": "auto"}, RuntimeError, "seeds and penalties are ignored"),
        ({"sampler_type": "TorchSampler"}, RuntimeError, "seeds and penalties are ignored"),
        ({"max_seq_len": 10}, ValueError, "max_seq_len"),
        ({"max_num_tokens": 2}, ValueError, "max_num_tokens"),
    ],
    ids=str,
)
def test_the_double_refuses_arguments_of_the_engine(
    double: Any, folder: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        generate(llm(double, folder, **change), double, {})


def test_the_double_refuses_a_wrong_kv_cache_config(double: Any) -> None:
    from tensorrt_llm.llmapi import KvCacheConfig

    with pytest.raises(TypeError, match="enable_reuse"):
        KvCacheConfig(enable_reuse=True)  # type: ignore[call-arg]  # the mistake
    with pytest.raises(TypeError, match="enable_block_reuse must be"):
        KvCacheConfig(enable_block_reuse=1)  # type: ignore[arg-type]  # the mistake
    with pytest.raises(ValueError, match=r"free_gpu_memory_fraction must be in \[0, 1\]"):
        KvCacheConfig(free_gpu_memory_fraction=40.0)


def test_the_double_refuses_wrong_inputs(double: Any, folder: Path) -> None:
    engine = llm(double, folder)
    for prompts in ("text", ["text"], [(5, 6)], []):
        with pytest.raises(TypeError, match="token ids"):
            engine.generate(prompts, [double.SamplingParams(**GOOD)])
    with pytest.raises(TypeError, match="list of int"):
        engine.generate([[5, "6"]], [double.SamplingParams(**GOOD)])
    with pytest.raises(double.Misuse, match="one SamplingParams for each prompt"):
        engine.generate([[5], [6]], double.SamplingParams(**GOOD))


def test_the_double_refuses_a_launchers_environment(double: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMIX_RANK", "0")
    with pytest.raises(double.Misuse, match="PMIX_RANK"):
        llm(double, folder)


class Learner:
    """The double's AsyncLLM, called as the adapter calls it."""

    def __init__(self, double: Any, folder: Path, **changed: Any) -> None:
        settings = {name: value for name, value in {**LLM_ARGS, **changed}.items() if name != "orchestrator_type"}
        self.double = double
        self.llm = double.AsyncLLM(model=str(folder), **settings)

    def start(self) -> Learner:
        asyncio.run(self.llm.setup_async())
        return self

    def run(self, method: str, *args: Any) -> None:
        asyncio.run(getattr(self.llm, method)(*args))

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        handles = [(name, (lambda tensor, *_: tensor, (tensor, *[None] * 6))) for name, tensor in tensors.items()]
        self.run("update_weights", {"GPU-double-0": handles})

    def generate(self) -> Any:
        return generate(self.llm, self.double, {})


@pytest.fixture
def async_learner(double: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Learner:
    monkeypatch.setenv("TRT_LLM_DISABLE_LOAD_WEIGHTS_IN_PARALLEL", "1")
    return Learner(double, folder).start()


def test_the_double_refuses_an_async_llm_that_was_not_awaited(double: Any, folder: Path) -> None:
    with pytest.raises(double.Misuse, match="not awaited"):
        Learner(double, folder).generate()


def test_the_double_refuses_the_parallel_loader(double: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRT_LLM_DISABLE_LOAD_WEIGHTS_IN_PARALLEL")
    with pytest.raises(double.Misuse, match="DISABLE_LOAD_WEIGHTS_IN_PARALLEL"):
        Learner(double, folder)


def test_the_double_refuses_to_generate_asleep_or_with_lost_weights(double: Any, async_learner: Learner) -> None:
    async_learner.generate()
    with pytest.raises(double.Misuse, match="reset it first"):
        async_learner.run("release", ["kv_cache"])
    async_learner.run("collective_rpc", "reset_prefix_cache")
    async_learner.run("release", [*WEIGHT_TAGS, "kv_cache"])
    with pytest.raises(double.Misuse, match="released already"):
        async_learner.run("release", ["kv_cache"])
    with pytest.raises(double.Misuse, match="generate while"):
        async_learner.generate()
    with pytest.raises(double.Misuse, match="update_weights while"):
        async_learner.load(weights(1))
    async_learner.run("resume", WEIGHT_TAGS)
    with pytest.raises(double.Misuse, match=r"generate while \['kv_cache'\]"):
        async_learner.generate()
    async_learner.run("resume", ["kv_cache"])
    with pytest.raises(double.Misuse, match="not sent again"):
        async_learner.generate()
    async_learner.load(weights(1))
    async_learner.run("update_weights", None)
    async_learner.generate()


def test_the_double_refuses_unknown_tags_and_sleep_that_is_off(double: Any, folder: Path) -> None:
    learner = Learner(double, folder).start()
    with pytest.raises(ValueError, match="Unknown memory tag 'weights'"):
        learner.run("release", ["weights"])
    with pytest.raises(double.Misuse, match="not released"):
        learner.run("resume", ["model"])
    with pytest.raises(ValueError, match="Sleep feature is not enabled"):
        Learner(double, folder, enable_sleep=False).start().run("release", ["model"])


def test_the_double_refuses_half_an_update(double: Any, async_learner: Learner) -> None:
    first, *rest = buckets(weights(1))
    with pytest.raises(double.Misuse, match="without a bucket"):
        async_learner.run("update_weights", None)
    async_learner.load(first)
    with pytest.raises(double.Misuse, match="not finalised"):
        async_learner.generate()
    with pytest.raises(double.Misuse, match="tensors missing"):
        async_learner.run("update_weights", None)
    for bucket in rest:
        async_learner.load(bucket)
    with pytest.raises(double.Misuse, match="not finalised, 0 tensors missing"):
        async_learner.generate()
    async_learner.run("update_weights", None)
    async_learner.generate()


def test_the_double_refuses_bad_buckets(double: Any, async_learner: Learner) -> None:
    full = weights(1)
    layer = "model.layers.0."
    for name in (f"{layer}self_attn.k_proj.weight", f"{layer}mlp.gate_proj.weight"):
        with pytest.raises(double.Misuse, match="fused"):
            async_learner.load({name: full[name]})
    with pytest.raises(double.Misuse, match="the real loader ignores"):
        async_learner.load({"model.extra": full["model.norm.weight"]})
    with pytest.raises(ValueError, match="shape"):
        async_learner.load({"model.norm.weight": full["model.norm.weight"][:-1]})
    with pytest.raises(ValueError, match="Device UUID GPU-double-0 not found"):
        async_learner.run("update_weights", {"GPU-1": []})


def test_the_double_refuses_calls_of_workers_that_do_not_exist(double: Any, async_learner: Learner) -> None:
    with pytest.raises(AttributeError, match="no method called 'load'"):
        async_learner.run("collective_rpc", "load")
    with pytest.raises(TypeError, match="args must be a tuple"):
        async_learner.run("collective_rpc", "sleep", ["model"])
    async_learner.llm.shutdown()
    with pytest.raises(RuntimeError, match="shutting down"):
        async_learner.generate()
