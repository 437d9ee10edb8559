"""The adapter on the double of tensorrt_llm."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from s2l_nemo.engines.embedded.engine import EmbeddedEngine, EmbeddedLearnerEngine
from s2l_nemo.engines.settings import EngineSettings
from s2l_nemo.engines.tensorrt_llm.engine import TensorRTExplorer, TensorRTLearner
from s2l_nemo.engines.tensorrt_llm.transport import FileTransport
from s2l_nemo.errors import UserError
from s2l_nemo.models.precision import Precision
from s2l_nemo.types import Completion, SamplingParams, Source
from tests.agreement import assert_same_completions
from tests.arrays import tokens_of
from tests.engines.random_qwen3 import build_model, make_requests
from tests.engines.tensorrt_llm.weights import WEIGHT_TAGS, buckets, weights

STOPS = (1, 2, 50, 51, 52, 53)
PARAMS = SamplingParams(max_new_tokens=16, stop_token_ids=STOPS)


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


def learner(folder: Path) -> TensorRTLearner:
    return TensorRTLearner(settings(folder, Source.LEARNER), None)


def embedded(model: Any, source: Source = Source.EXPLORER) -> EmbeddedEngine:
    return EmbeddedEngine(model, source=source, max_batch_rows=64)


@pytest.mark.parametrize(
    "params",
    [
        PARAMS,
        replace(PARAMS, temperature=0.7),
        replace(PARAMS, temperature=0.0),
        replace(PARAMS, presence_penalty=1.5),
        replace(PARAMS, temperature=0.6, presence_penalty=1.5),
        replace(PARAMS, temperature=0.0, presence_penalty=1.5),
    ],
    ids=["plain", "warm", "greedy", "penalty", "warm penalty", "greedy penalty"],
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


@pytest.mark.parametrize("penalty", [0.0, 1.5])
def test_log_probs_of_truncated_sampling_are_of_the_whole_softmax(folder: Path, penalty: float) -> None:
    """As in the real library: the tokens are drawn among few, their log-probs do not know of it."""
    params = replace(PARAMS, temperature=0.7, top_p=0.9, top_k=20, presence_penalty=penalty)
    requests = make_requests(prompts=2, samples=2)
    completions = explorer(folder).generate(requests, params)
    model = build_model(seed=0)
    renormalised = embedded(model).generate(requests, params)
    assert tokens_of(completions) == tokens_of(renormalised)
    for request, completion, narrow in zip(requests, completions, renormalised, strict=True):
        tokens = completion.token_ids.tolist()
        for position, token in enumerate(tokens):
            with torch.no_grad():
                logits_V = model(torch.tensor([[*request.prompt_token_ids, *tokens[:position]]])).logits[0, -1].float()
            logits_V[sorted(set(tokens[:position]))] -= penalty
            whole = torch.log_softmax(logits_V / 0.7, dim=-1)[token].item()
            assert completion.logprobs[position] == pytest.approx(whole, abs=1e-5)
            assert completion.logprobs[position] <= narrow.logprobs[position] + 1e-5


def test_engine_arguments(folder: Path) -> None:
    args = explorer(folder)._llm.args
    assert (args.max_input_len, args.tensor_parallel_size, args.allreduce_strategy) == (48, 1, "NCCL")
    assert args.scheduler_config.capacity_scheduler_policy.name == "MAX_UTILIZATION"
    assert (args.cuda_graph_config.enable_padding, args.cuda_graph_config.max_batch_size) == (True, 64)
    assert args.kv_cache_config.max_tokens == 64 * 64  # 64 rows of 48 tokens, in blocks of 32
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
    with closing(explorer(tmp_path)) as engine:
        with_head = engine.weight_hash()
    assert with_head == explorer(tied_folder).weight_hash()


def test_explorer_sleeps_and_samples_the_same(folder: Path) -> None:
    requests = make_requests(prompts=2, samples=2)
    engine = explorer(folder)
    before = engine.generate(requests, PARAMS)
    engine.sleep()
    engine.sleep()
    assert engine._llm.workers[0].engine._asleep == {*WEIGHT_TAGS, "kv_cache"}
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
    assert tokens_of(after) != tokens_of(before)
    with pytest.raises(RuntimeError, match="cannot read back"):
        engine.weight_hash()


def test_a_step_of_a_colocated_run(folder: Path) -> None:
    requests = make_requests(prompts=2, samples=2)
    engine = learner(folder)
    memory = engine._llm.workers[0].engine
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
    assert engine._llm.workers[0].engine._asleep == {*WEIGHT_TAGS, "kv_cache"}


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


def test_a_bucket_that_fails_in_the_engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = learner(folder)
    loaded: list[Any] = []
    load = type(engine._llm.workers[0].engine).load

    def second_fails(self: Any, bucket: Any) -> None:
        loaded.append(bucket)
        if len(loaded) == 2:
            raise RuntimeError("out of memory")
        load(self, bucket)

    monkeypatch.setattr(type(engine._llm.workers[0].engine), "load", second_fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.update_weights(buckets(weights(1)), version=1)
    assert len(loaded) == 2
    with pytest.raises(RuntimeError, match="version 1 is incomplete"):
        engine.generate(make_requests(1, 1), PARAMS)
    engine.update_weights(buckets(weights(1)), version=1)
    assert engine.generate(make_requests(1, 1), PARAMS)[0].weight_version == 1


def test_the_transfer_leaves_no_file_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = learner(folder)
    assert isinstance(engine._transport, FileTransport)
    load, paths = engine._transport._load, list[Path]()

    def recorded(path: str) -> None:
        paths.append(Path(path))
        assert paths[-1].is_file()
        load(path)

    monkeypatch.setattr(engine._transport, "_load", recorded)
    engine.update_weights(buckets(weights(1)), version=1)
    assert len(paths) == len(buckets(weights(1)))
    assert not any(path.exists() or path.parent.exists() for path in paths)


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


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("start", [explorer, learner])
def test_completions_come_as_they_finish(folder: Path, start: Callable[[Path], TensorRTExplorer]) -> None:
    requests = make_requests(prompts=6, samples=4)
    engine = start(folder)
    finished = list(engine.stream(requests, PARAMS))
    lengths = [len(completion.token_ids) for _, completion in finished]
    assert len(set(lengths)) > 2
    assert lengths == sorted(lengths)
    assert_same_completions(engine.generate(requests, PARAMS), [completion for _, completion in sorted(finished)])


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("start", [explorer, learner])
def test_requests_of_a_stream_that_fails_are_aborted(folder: Path, start: Callable[[Path], TensorRTExplorer]) -> None:
    engine = start(folder)
    requests = make_requests(prompts=2, samples=2)
    before = engine.generate(requests, PARAMS)
    engine._llm.aborted.clear()
    stream = engine.stream(requests, PARAMS)

    def fail() -> None:
        raise RuntimeError("the executor failed")

    engine._llm._run = fail
    with pytest.raises(RuntimeError, match="the executor failed"):
        next(stream)
    assert engine._llm.aborted == [5, 6, 7, 8]
    del engine._llm._run
    assert_same_completions(engine.generate(requests, PARAMS), before)


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
