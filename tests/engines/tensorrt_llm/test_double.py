"""The double of tensorrt_llm refuses misuse."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from s2l_nemo.types import SampleRequest, SamplingParams, Source
from tests.engines.random_qwen3 import build_model
from tests.engines.tensorrt_llm.weights import WEIGHT_TAGS, buckets, weights

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
        ({"max_seq_len": 3}, ValueError, "max_seq_len"),
        ({"max_input_len": 2}, ValueError, "max_input_len"),
        ({"max_num_tokens": 2}, ValueError, "max_num_tokens"),
    ],
    ids=str,
)
def test_the_double_refuses_arguments_of_the_engine(
    double: Any, folder: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        generate(llm(double, folder, **change), double, {})


def test_the_double_clamps_lengths_with_a_warning(double: Any, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    [result] = generate(llm(double, folder, max_seq_len=10), double, {"stop_token_ids": [96]})
    assert len(result.outputs[0].token_ids) == 7  # 3 of the prompt
    assert [record.getMessage() for record in caplog.records] == [
        "`max_tokens` (8) is greater than 7, which is used instead"
    ]


def test_the_double_takes_the_penalty_off_after_the_temperature(double: Any, folder: Path) -> None:
    """At temperature 1/2 a penalty of 2 is worth 1 before the division."""
    from s2l_nemo.engines.embedded.engine import EmbeddedEngine

    changes = {"temperature": 0.5, "presence_penalty": 2.0, "prompt_ignore_length": 3}
    [result] = generate(llm(double, folder), double, changes)
    ours = SamplingParams(8, (1,), temperature=0.5, presence_penalty=1.0)
    engine = EmbeddedEngine(build_model(seed=0), source=Source.EXPLORER, max_batch_rows=1)
    [expected] = engine.generate([SampleRequest(0, 0, (5, 6, 7), 1)], ours)
    assert result.outputs[0].token_ids == expected.token_ids.tolist()


def test_the_double_refuses_a_wrong_kv_cache_config() -> None:
    from tensorrt_llm.llmapi import KvCacheConfig

    with pytest.raises(TypeError, match="enable_reuse"):
        KvCacheConfig(enable_reuse=True)
    with pytest.raises(TypeError, match="enable_block_reuse must be"):
        KvCacheConfig(enable_block_reuse=1)
    with pytest.raises(ValueError, match=r"free_gpu_memory_fraction must be in \[0, 1\]"):
        KvCacheConfig(free_gpu_memory_fraction=40.0)


def test_the_double_refuses_wrong_inputs(double: Any, folder: Path) -> None:
    engine = llm(double, folder)
    for prompts in ("text", ["text"], [(5, 6)], []):
        with pytest.raises(TypeError, match=r"inputs must be list|token ids"):
            engine.generate(prompts, [double.SamplingParams(**GOOD)])
    with pytest.raises(TypeError, match="inputs must be list"):
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


@pytest.fixture(autouse=True)
def one_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the adapter sets it before it builds an engine."""
    monkeypatch.setenv("TRT_LLM_DISABLE_LOAD_WEIGHTS_IN_PARALLEL", "1")


@pytest.fixture
def async_learner(double: Any, folder: Path) -> Learner:
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


def test_the_double_refuses_calls_of_workers_that_do_not_exist(async_learner: Learner) -> None:
    with pytest.raises(AttributeError, match="no method called 'load'"):
        async_learner.run("collective_rpc", "load")
    with pytest.raises(TypeError, match=r"args must be .*tuple"):
        async_learner.run("collective_rpc", "sleep", ["model"])
    async_learner.llm.shutdown()
    with pytest.raises(RuntimeError, match="shutting down"):
        async_learner.generate()
