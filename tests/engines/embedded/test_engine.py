from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config, StableLmConfig

from s2l_nemo.engines.embedded.cpu_decoder import CpuDecoder
from s2l_nemo.engines.embedded.decoder import Decoder
from s2l_nemo.engines.embedded.engine import EmbeddedEngine, EmbeddedLearnerEngine
from s2l_nemo.errors import UserError
from s2l_nemo.types import Completion, SampleRequest, SamplingParams, Source
from tests.arrays import tokens_of
from tests.engines.random_qwen3 import VOCAB, build_model, make_requests

STOPS = (1, 2, 50, 51, 52, 53)  # about one token in sixteen, so that rows end at different steps


def explorer(model: Any, max_batch_rows: int = 64) -> EmbeddedEngine:
    return EmbeddedEngine(model, source=Source.EXPLORER, max_batch_rows=max_batch_rows)


def learner(model: Any) -> EmbeddedLearnerEngine:
    return EmbeddedLearnerEngine(model, source=Source.LEARNER, max_batch_rows=64)


def tensors(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters())


def recorded_inputs(model: Any) -> list[torch.Size]:
    """Shapes of the token tensors of every later forward pass, [rows, columns]."""
    shapes: list[torch.Size] = []
    model.model.embed_tokens.register_forward_hook(lambda module, args, output: shapes.append(args[0].shape))
    return shapes


def transformers_greedy(model: Any, prompts: list[tuple[int, ...]], params: SamplingParams) -> list[list[int]]:
    longest = max(len(prompt) for prompt in prompts)
    padding = [longest - len(prompt) for prompt in prompts]
    output = model.generate(
        torch.tensor([[0] * pad + list(prompt) for pad, prompt in zip(padding, prompts, strict=True)]),
        attention_mask=torch.tensor([[0] * pad + [1] * (longest - pad) for pad in padding]),
        do_sample=False,
        max_new_tokens=params.max_new_tokens,
        eos_token_id=list(params.stop_token_ids),
        pad_token_id=0,
    )[:, longest:].tolist()
    ends = [next((i + 1 for i, token in enumerate(row) if token in params.stop_token_ids), len(row)) for row in output]
    return [row[:end] for row, end in zip(output, ends, strict=True)]


@pytest.mark.parametrize("max_batch_rows", [1, 3, 64])
def test_greedy_equals_transformers_generate(model: Any, max_batch_rows: int) -> None:
    requests = make_requests(prompts=12, samples=1)
    params = SamplingParams(max_new_tokens=24, stop_token_ids=STOPS, temperature=0.0)
    expected = transformers_greedy(build_model(), [request.prompt_token_ids for request in requests], params)
    completions = explorer(model, max_batch_rows).generate(requests, params)
    assert tokens_of(completions) == expected
    assert len({len(tokens) for tokens in expected}) > 2, "the rows must end at different steps"


@pytest.mark.parametrize("config_class", [LlamaConfig, Qwen2Config, StableLmConfig])
def test_other_decoders(config_class: Any) -> None:
    """Llama and Qwen2, which has biases, are decoded as Qwen3 is; StableLM by transformers' own forward pass."""
    config = config_class(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        max_position_embeddings=64,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    requests = make_requests(prompts=6, samples=1)
    params = SamplingParams(max_new_tokens=16, stop_token_ids=STOPS, temperature=0.0)
    expected = transformers_greedy(model, [request.prompt_token_ids for request in requests], params)
    assert tokens_of(explorer(model, 4).generate(requests, params)) == expected


@pytest.mark.parametrize("config_class", [LlamaConfig, Qwen2Config, Qwen3Config])
def test_the_decoder_of_gpus_gives_the_same(config_class: Any) -> None:
    """It runs anywhere; a CPU only has a faster one."""
    config = config_class(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.3, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    engine = explorer(AutoModelForCausalLM.from_config(config, attn_implementation="sdpa"), 4)
    requests, params = make_requests(prompts=4, samples=3), SamplingParams(max_new_tokens=16, stop_token_ids=STOPS)
    assert isinstance(engine._decoder, CpuDecoder)
    expected = engine.generate(requests, params)
    engine._decoder = Decoder(engine.model)
    completions = engine.generate(requests, params)
    assert tokens_of(completions) == tokens_of(expected)
    for one, other in zip(completions, expected, strict=True):
        torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-5, rtol=0)


BIASES = {"attention_bias": True, "mlp_bias": True}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


@pytest.mark.parametrize(
    ("config_class", "figures"),
    [
        (LlamaConfig, {**BIASES, "rope_scaling": LLAMA3}),
        (Qwen2Config, {"rope_scaling": YARN}),
        (Qwen3Config, {"rope_scaling": YARN, "head_dim": 8}),
    ],
)
def test_biases_and_scaled_rotation(config_class: Any, figures: dict[str, Any]) -> None:
    """Biases everywhere in Llama, of q, k and v in Qwen2; the longer positions of Llama 3, and of YaRN."""
    config = config_class(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=1, initializer_range=0.3, max_position_embeddings=64, rope_theta=100.0, **figures,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    requests = make_requests(prompts=6, samples=1)
    params = SamplingParams(max_new_tokens=16, stop_token_ids=STOPS, temperature=0.0)
    expected = transformers_greedy(model, [request.prompt_token_ids for request in requests], params)
    assert tokens_of(explorer(model, 4).generate(requests, params)) == expected


def test_bfloat16_logprobs_are_near_those_of_a_forward_pass() -> None:
    """Its numbers have 8 bits: within 0.1 nats, and 0.02 on average."""
    plain, model = build_model().bfloat16(), build_model().bfloat16()
    requests = make_requests(prompts=4, samples=4)
    params = SamplingParams(max_new_tokens=20, stop_token_ids=STOPS)
    differences = []
    for request, completion in zip(requests, explorer(model, 5).generate(requests, params), strict=True):
        tokens = torch.tensor([[*request.prompt_token_ids, *completion.token_ids]])
        with torch.no_grad():
            logits_SV = plain(tokens).logits[0, len(request.prompt_token_ids) - 1 : -1].float()
        expected_S = torch.log_softmax(logits_SV, dim=-1)
        expected_S = expected_S.gather(1, torch.tensor(completion.token_ids).long()[:, None]).squeeze(1)
        differences += (torch.tensor(completion.logprobs) - expected_S).abs().tolist()
    assert max(differences) < 0.1
    assert sum(differences) / len(differences) < 0.02


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_logprobs_equal_a_forward_pass(model: Any, temperature: float) -> None:
    params = SamplingParams(max_new_tokens=20, stop_token_ids=STOPS, temperature=temperature)
    plain = build_model()  # an engine changes its model's attention
    requests = make_requests(prompts=4, samples=4)
    for request, completion in zip(requests, explorer(model, 5).generate(requests, params), strict=True):
        tokens = torch.tensor([[*request.prompt_token_ids, *completion.token_ids]])
        with torch.no_grad():
            logits_SV = plain(tokens).logits[0, len(request.prompt_token_ids) - 1 : -1]
        expected_S = torch.log_softmax(logits_SV / (temperature or 1.0), dim=-1)
        expected_S = expected_S.gather(1, torch.tensor(completion.token_ids).long()[:, None]).squeeze(1)
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected_S, atol=1e-5, rtol=0)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_presence_penalty_counts_only_what_the_row_has_generated(model: Any, temperature: float) -> None:
    """Few slots, so that rows join and move; the prompt's tokens are free, which the expected numbers say too."""
    params = SamplingParams(20, STOPS, temperature=temperature, presence_penalty=1.5)
    plain = build_model()
    requests = make_requests(prompts=6, samples=4)
    completions = explorer(model, 5).generate(requests, params)
    for request, completion in zip(requests, completions, strict=True):
        with torch.no_grad():
            tokens = torch.tensor([[*request.prompt_token_ids, *completion.token_ids]])
            logits_SV = plain(tokens).logits[0, len(request.prompt_token_ids) - 1 : -1]
        for position in range(len(completion.token_ids)):
            logits_SV[position, sorted(set(completion.token_ids[:position].tolist()))] -= 1.5
        expected_S = torch.log_softmax(logits_SV / (temperature or 1.0), dim=-1)
        if temperature == 0:
            assert logits_SV.argmax(dim=-1).tolist() == completion.token_ids.tolist()
        expected_S = expected_S.gather(1, torch.tensor(completion.token_ids).long()[:, None]).squeeze(1)
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected_S, atol=1e-5, rtol=0)
    without = explorer(model, 5).generate(requests, replace(params, presence_penalty=0.0))
    assert tokens_of(without) != tokens_of(completions)


def test_same_seed_same_tokens_whatever_the_batch(model: Any) -> None:
    params = SamplingParams(max_new_tokens=20, stop_token_ids=STOPS)
    requests = make_requests(prompts=6, samples=4)
    reference = explorer(model, 64).generate(requests, params)
    assert len({*map(tuple, tokens_of(reference))}) > 20, "samples of a group must differ"
    shuffled = random.Random(0).sample(requests, len(requests))
    for rows in (1, 3, 64):
        for order in (requests, shuffled, shuffled[5:7]):
            for request, completion in zip(order, explorer(model, rows).generate(order, params), strict=True):
                assert completion.token_ids.tolist() == tokens_of(reference)[requests.index(request)]
    other_seeds = [replace(request, seed=request.seed + 1) for request in requests]
    changed = explorer(model).generate(other_seeds, params)
    pairs = zip(tokens_of(changed), tokens_of(reference), strict=True)
    assert sum(new != old for new, old in pairs) > 20


def test_stop_and_length(model: Any) -> None:
    params = SamplingParams(max_new_tokens=10, stop_token_ids=STOPS)
    requests = make_requests(prompts=8, samples=8)
    completions = explorer(model).generate(requests, params)
    for request, completion in zip(requests, completions, strict=True):
        assert (completion.prompt_id, completion.sample_id) == (request.prompt_id, request.sample_id)
        assert len(completion.token_ids) == len(completion.logprobs) <= 10
        assert not set(completion.token_ids[:-1].tolist()) & set(STOPS)
        if completion.finish_reason == "stop":
            assert completion.token_ids[-1] in STOPS
        else:
            assert len(completion.token_ids) == 10
            assert completion.token_ids[-1] not in STOPS
    assert {completion.finish_reason for completion in completions} == {"stop", "length"}
    assert any(completion.finish_reason == "stop" and len(completion.token_ids) < 10 for completion in completions)


def test_a_single_token_and_no_requests(model: Any) -> None:
    params = SamplingParams(max_new_tokens=1, stop_token_ids=STOPS)
    assert [len(c.token_ids) for c in explorer(model, 2).generate(make_requests(3, 2), params)] == [1] * 6
    assert explorer(model).generate([], params) == []


def test_a_group_is_prefilled_once(model: Any) -> None:
    requests = [
        SampleRequest(prompt_id, sample, tokens, seed=10 * prompt_id + sample)
        for prompt_id, tokens in enumerate([(5, 6, 7, 8), (9, 10, 11, 12)])
        for sample in range(8)
    ]
    shapes = recorded_inputs(model)
    explorer(model).generate(requests, SamplingParams(max_new_tokens=5, stop_token_ids=()))
    assert shapes == [(2, 4)] + [(16, 1)] * 4

    shapes.clear()
    # Three rows at once: rows of a prompt start at different times, yet each prompt goes through the model once.
    explorer(model, 3).generate(requests, SamplingParams(max_new_tokens=5, stop_token_ids=STOPS))
    assert sum(rows * columns for rows, columns in shapes if columns > 1) == 8
    assert max(rows for rows, columns in shapes if columns == 1) == 3


def test_prefill_passes_are_bounded(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s2l_nemo.engines.embedded.runner._PREFILL_TOKENS", 24)
    params = SamplingParams(max_new_tokens=8, stop_token_ids=STOPS)
    requests = make_requests(prompts=9, samples=2)
    shapes = recorded_inputs(model)
    completions = explorer(model).generate(requests, params)
    assert max(rows * columns for rows, columns in shapes if columns > 1) <= 24
    monkeypatch.undo()
    assert tokens_of(explorer(model).generate(requests, params)) == tokens_of(completions)


def test_only_the_last_position_of_a_prompt_reaches_the_head(model: Any) -> None:
    positions: list[int] = []
    model.lm_head.register_forward_hook(lambda module, args, output: positions.append(args[0].size(1)))
    explorer(model).generate(make_requests(4, 2), SamplingParams(max_new_tokens=4, stop_token_ids=()))
    assert set(positions) == {1}


def test_finished_rows_leave_the_batch(model: Any) -> None:
    requests = make_requests(prompts=1, samples=16, longest=4)
    shapes = recorded_inputs(model)
    completions = explorer(model).generate(requests, SamplingParams(max_new_tokens=30, stop_token_ids=STOPS))
    decoded = [rows for rows, columns in shapes[1:]]
    # A completion of n tokens takes n - 1 decode steps: the first token comes from the prefill.
    assert sum(decoded) == sum(len(completion.token_ids) - 1 for completion in completions)
    assert decoded == sorted(decoded, reverse=True)
    assert decoded[-1] < 16


def test_waiting_requests_join_a_running_batch(model: Any) -> None:
    requests = make_requests(prompts=8, samples=8)
    shapes = recorded_inputs(model)
    completions = explorer(model, 8).generate(requests, SamplingParams(max_new_tokens=30, stop_token_ids=STOPS))
    decoded = [rows for rows, columns in shapes if columns == 1]
    longest_of_chunks = sum(max(len(c.token_ids) for c in completions[i : i + 8]) for i in range(0, 64, 8))
    assert max(decoded) == 8
    assert len(decoded) < 0.6 * longest_of_chunks


@pytest.mark.parametrize(("new_tokens", "fits"), [(56, True), (57, False)])
def test_prompt_and_response_must_fit_the_model(model: Any, new_tokens: int, fits: bool) -> None:
    request = SampleRequest(7, 0, tuple(range(3, 11)), seed=1)  # 8 tokens; the model has 64 positions
    params = SamplingParams(max_new_tokens=new_tokens, stop_token_ids=())
    if fits:
        assert len(explorer(model).generate([request], params)[0].token_ids) == new_tokens
    else:
        with pytest.raises(ValueError, match="prompt 7 has 8 tokens; with 57 new ones it exceeds the model's 64"):
            explorer(model).generate([request], params)


def greedy(engine: EmbeddedEngine) -> list[Completion]:
    params = SamplingParams(max_new_tokens=12, stop_token_ids=STOPS, temperature=0.0)
    return engine.generate(make_requests(prompts=3, samples=1), params)


@pytest.mark.parametrize("tied", [False, True])
def test_update_weights_replaces_the_model(tied: bool) -> None:
    engine = learner(build_model(tied=tied, seed=0))
    other = build_model(tied=tied, seed=1)
    before = greedy(engine)
    assert engine.weight_version == 0

    names = list(tensors(other))
    assert ("lm_head.weight" in names) is not tied
    engine.update_weights(({name: tensors(other)[name]} for name in names), version=4)
    after = greedy(engine)
    expected = greedy(learner(other))
    assert tokens_of(after) == tokens_of(expected) != tokens_of(before)
    assert engine.weight_version == 4
    assert {completion.weight_version for completion in after} == {4}
    assert engine.weight_hash() == learner(other).weight_hash()


def test_update_weights_copies_in_place() -> None:
    engine = learner(build_model(seed=0))
    sent = {name: tensor.detach().clone() for name, tensor in tensors(build_model(seed=1)).items()}
    engine.update_weights([sent], version=1)
    expected = engine.weight_hash()
    for tensor in sent.values():
        tensor.zero_()
    assert engine.weight_hash() == expected


def broken_updates() -> Iterator[tuple[str, list[dict[str, torch.Tensor]], str]]:
    full = tensors(build_model(seed=1))
    norm = "model.norm.weight"
    rest = {name: tensor for name, tensor in full.items() if name != norm}
    yield "missing", [rest], f"1 tensors are missing, first {norm}"
    yield "unknown", [full, {"model.extra": full[norm]}], "no tensor model.extra"
    yield "repeated", [full, {norm: full[norm]}], f"tensor {norm} came twice"
    yield "shape", [rest, {norm: full[norm][:-1]}], r"shape \(31,\), the model's has \(32,\)"


@pytest.mark.parametrize(("buckets", "message"), [pytest.param(b, m, id=i) for i, b, m in broken_updates()])
def test_an_incomplete_update_is_refused_until_a_complete_one(
    buckets: list[dict[str, torch.Tensor]], message: str
) -> None:
    engine = learner(build_model(seed=0))
    with pytest.raises(ValueError, match=message):
        engine.update_weights(buckets, version=3)
    with pytest.raises(RuntimeError, match="weight version 3 is incomplete"):
        greedy(engine)
    assert engine.weight_version == 0
    engine.update_weights([tensors(build_model(seed=1))], version=4)
    assert greedy(engine)[0].weight_version == 4


def test_a_tied_head_sent_apart_is_refused() -> None:
    model = build_model(tied=True)
    buckets = [tensors(model), {"lm_head.weight": model.lm_head.weight}]
    with pytest.raises(ValueError, match=r"no tensor lm_head.weight \(or it is tied\)"):
        learner(model).update_weights(buckets, version=1)


def test_the_explorer_cannot_be_updated(model: Any) -> None:
    assert not hasattr(EmbeddedEngine, "update_weights")
    engine = explorer(model)
    before = engine.weight_hash()
    completions = engine.generate(make_requests(2, 2), SamplingParams(max_new_tokens=8, stop_token_ids=STOPS))
    assert {(c.source, c.weight_version) for c in completions} == {(Source.EXPLORER, 0)}
    assert engine.weight_hash() == before


def test_weight_hash_sees_every_tensor(model: Any) -> None:
    engine = explorer(model)
    seen = {engine.weight_hash()}
    for tensor in tensors(model).values():
        with torch.no_grad():
            tensor.view(-1)[-1] += 1
        seen.add(engine.weight_hash())
    assert len(seen) == 1 + len(tensors(model))
    assert all(len(digest) == 64 for digest in seen)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_from_pretrained(tmp_path: Path, dtype: torch.dtype) -> None:
    build_model(seed=3).to(dtype).save_pretrained(tmp_path)
    engine = EmbeddedLearnerEngine.from_pretrained(
        tmp_path, source=Source.LEARNER, device="cpu", dtype=dtype, max_batch_rows=4
    )
    assert engine.weight_hash() == learner(build_model(seed=3).to(dtype)).weight_hash()
    completions = greedy(engine)
    assert completions[0].source is Source.LEARNER
    assert all(0 <= token < VOCAB for completion in completions for token in completion.token_ids)


def from_weights(config: dict[str, Any], buckets: list[dict[str, torch.Tensor]], dtype: torch.dtype) -> EmbeddedEngine:
    return EmbeddedEngine.from_weights(
        config, buckets, source=Source.EXPLORER, device="cpu", dtype=dtype, max_batch_rows=64
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
def test_from_weights_equals_from_pretrained(tmp_path: Path, tied: bool, dtype: torch.dtype) -> None:
    model = build_model(tied=tied, seed=3).to(dtype)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    # a folder may name code of its own; nothing is looked up
    config["auto_map"] = {"AutoConfig": "remote.Config", "AutoModelForCausalLM": "remote.Model"}
    engine = from_weights(config, [{name: tensor} for name, tensor in tensors(model).items()], dtype)
    loaded = EmbeddedEngine.from_pretrained(
        tmp_path, source=Source.EXPLORER, device="cpu", dtype=dtype, max_batch_rows=64
    )
    assert engine.weight_hash() == loaded.weight_hash()
    assert greedy(engine) == greedy(loaded)
    assert not hasattr(engine, "update_weights")
    assert config["model_type"] == "qwen3"  # the caller's own


@pytest.mark.parametrize(("buckets", "message"), [pytest.param(b, m, id=i) for i, b, m in broken_updates()])
def test_from_weights_needs_every_tensor_once(buckets: list[dict[str, torch.Tensor]], message: str) -> None:
    with pytest.raises(ValueError, match=f"^weights given: .*{message}"):
        from_weights(build_model().config.to_dict(), buckets, torch.float32)


def test_from_pretrained_runs_no_code_of_the_folder(tmp_path: Path) -> None:
    build_model(seed=3).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "remote.Config", "AutoModelForCausalLM": "remote.Model"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "remote.py").write_text(f"open({str(tmp_path / 'EXECUTED')!r}, 'w').close()\n")
    engine = EmbeddedEngine.from_pretrained(
        tmp_path, source=Source.EXPLORER, device="cpu", dtype=torch.float32, max_batch_rows=4
    )
    assert engine.weight_hash() == explorer(build_model(seed=3)).weight_hash()
    assert not (tmp_path / "EXECUTED").exists()


def test_from_pretrained_does_not_depend_on_where_the_file_has_a_tensor(tmp_path: Path) -> None:
    """Sums of a matrix product depend on the alignment of its operands."""
    model = build_model(seed=3)
    engines = []
    for length in range(0, 64, 8):  # of the header, and so of every tensor's offset
        folder = tmp_path / str(length)
        model.config.save_pretrained(folder)
        save_file(tensors(model), folder / "model.safetensors", {"format": "pt", "pad": "x" * length})
        engines.append(
            EmbeddedEngine.from_pretrained(
                folder, source=Source.EXPLORER, device="cpu", dtype=torch.float32, max_batch_rows=64
            )
        )
    first, *others = [greedy(engine) for engine in engines]
    assert others == [first] * 7


def test_from_pretrained_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config.json"):
        EmbeddedEngine.from_pretrained(
            tmp_path, source=Source.EXPLORER, device="cpu", dtype=torch.float32, max_batch_rows=4
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_equals_cpu() -> None:
    requests = make_requests(prompts=4, samples=4)
    params = SamplingParams(max_new_tokens=16, stop_token_ids=STOPS)
    on_cpu = explorer(build_model(), 6).generate(requests, params)
    on_gpu = explorer(build_model().cuda(), 6).generate(requests, params)
    assert tokens_of(on_gpu) == tokens_of(on_cpu)
