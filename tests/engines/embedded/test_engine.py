from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config, StableLmConfig

from s2l_nemo.engines.embedded.cpu_decoder import CpuDecoder
from s2l_nemo.engines.embedded.decoder import TorchDecoder
from s2l_nemo.engines.embedded.engine import EmbeddedEngine
from s2l_nemo.types import SampleRequest, SamplingParams, Source
from tests.arrays import tokens_of
from tests.engines.random_qwen3 import VOCAB, build_model, make_requests

STOPS = (1, 2, 50, 51, 52, 53)  # about one token in sixteen, so that rows end at different steps


def explorer(model: Any, max_batch_rows: int = 64) -> EmbeddedEngine:
    return EmbeddedEngine(model, source=Source.EXPLORER, max_batch_rows=max_batch_rows)


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
    engine._decoder = TorchDecoder(engine.model)
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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_equals_cpu() -> None:
    requests = make_requests(prompts=4, samples=4)
    params = SamplingParams(max_new_tokens=16, stop_token_ids=STOPS)
    on_cpu = explorer(build_model(), 6).generate(requests, params)
    on_gpu = explorer(build_model().cuda(), 6).generate(requests, params)
    assert tokens_of(on_gpu) == tokens_of(on_cpu)
