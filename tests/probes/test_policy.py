"""A real model as a function of its parameters, against the engine that samples it and against reverse mode.

The model has 4 tokens, so that its 84 responses of up to 3 steps can be written down.
"""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
import torch

from s2l_nemo.engines.embedded.engine import EmbeddedEngine
from s2l_nemo.probes.intervals import Floats
from s2l_nemo.probes.measuring.facts import Along, Sampled, SpaceFacts, Work
from s2l_nemo.probes.measuring.logit_space import logit_facts
from s2l_nemo.probes.measuring.parameter_space import gamma_facts, parameter_facts, reference_direction
from s2l_nemo.probes.measuring.policy import Policy
from s2l_nemo.probes.measuring.rollouts import Asked, Who, deviations, sample_all
from s2l_nemo.probes.prefix import match_probability_T, matched_NT
from s2l_nemo.probes.scores import gaussian, hessian_projections, length, score_projections
from s2l_nemo.types import Prompt, SampleRequest, SamplingParams, Source
from tests.random_qwen3 import random_qwen3

VOCABULARY, STEPS, STOP = 4, 3, 3
FIGURES = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "head_dim": 8,
    "num_attention_heads": 2, "num_key_value_heads": 1, "eos_token_id": STOP, "initializer_range": 0.4,
}  # fmt: skip
PROMPT = Prompt(0, "", "", (0, 1))
PARAMS = SamplingParams(STEPS, (STOP,))
HOT = 1.5


@cache
def policy(seed: int = 0) -> Policy:
    model = random_qwen3(seed=seed, **FIGURES)
    return Policy(EmbeddedEngine(model, source=Source.LEARNER, max_batch_rows=2_000), 1_000)


def responses() -> list[list[int]]:
    """Every response that ends with the stop token or at the limit."""
    every = [list(one) for size in range(1, STEPS + 1) for one in itertools.product(range(VOCABULARY), repeat=size)]
    return [one for one in every if STOP not in one[:-1] and (one[-1] == STOP or len(one) == STEPS)]


def probability_N(temperature: float) -> Floats:
    """Of every response."""
    found = []
    for logits_TV, one in zip(policy().logits(PROMPT.token_ids, responses()), responses(), strict=True):
        log_probs = (logits_TV.double() / temperature).log_softmax(dim=-1)
        found.append(float(log_probs[torch.arange(len(one)), one].sum().exp()))
    return np.array(found)


def test_responses_are_all_that_there_are() -> None:
    assert len(responses()) == 1 + 3 + 9 * 4
    assert probability_N(HOT).sum() == pytest.approx(1, abs=1e-5)


def test_log_probs_are_those_of_the_engine() -> None:
    requests = [SampleRequest(0, k, PROMPT.token_ids, seed=k) for k in range(20)]
    completions = policy().engine.generate(requests, PARAMS)
    tokens = [one.token_ids.tolist() for one in completions]
    assert len({*map(len, tokens)}) > 1
    with policy().differentiable():
        values_NT = policy().log_probs(PROMPT.token_ids, tokens)(policy().parameters)
    for row, one in zip(values_NT, completions, strict=True):
        assert row[: len(one.logprobs)].tolist() == pytest.approx(one.logprobs.tolist(), abs=1e-5)
        assert not row[len(one.logprobs) :].any()


def test_attention_is_put_back() -> None:
    config = policy().engine.model.config
    before = config._attn_implementation
    with policy().differentiable():
        assert config._attn_implementation == "eager"
    assert config._attn_implementation == before != "eager"


def test_deviations_are_one_minus_what_the_engine_says() -> None:
    sampled = policy().engine.generate(
        [SampleRequest(0, 0, PROMPT.token_ids, seed=4)], SamplingParams(STEPS, (STOP,), HOT)
    )[0]
    found = deviations(policy(), PROMPT, sampled.token_ids.tolist(), HOT)
    assert found == pytest.approx(1 - np.exp(sampled.logprobs), abs=1e-5)


def test_projections_are_those_of_reverse_mode() -> None:
    generator = torch.Generator().manual_seed(0)
    at = policy().parameters
    v, delta = gaussian(at, generator), gaussian(at, generator)
    with policy().differentiable():
        log_probs = policy().log_probs(PROMPT.token_ids, [[0, 1, 2], [1, STOP]])
        z_NT = score_projections(log_probs, at, v)
        h_NT = hessian_projections(log_probs, at, v, delta)
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in at.items()}
        values_NT = log_probs(leaves)
        for n, t in ((0, 0), (0, 2), (1, 1)):
            score = torch.autograd.grad(values_NT[n, t], list(leaves.values()), create_graph=True)
            z = sum((one * along).sum() for one, along in zip(score, v.values(), strict=True))
            assert isinstance(z, torch.Tensor)
            again = torch.autograd.grad(z, list(leaves.values()), retain_graph=True)
            h = sum(float((one * along).sum()) for one, along in zip(again, delta.values(), strict=True))
            assert float(z_NT[n, t]) == pytest.approx(float(z.detach()), rel=1e-4, abs=1e-4)
            assert float(h_NT[n, t]) == pytest.approx(h, rel=1e-3, abs=1e-2)
    assert float(z_NT[1, 2]) == float(h_NT[1, 2]) == 0


def work() -> Work:
    (references,) = Asked(1, 0, PARAMS).sample(policy(), [PROMPT], 0.0)
    return Work(policy(), PROMPT.token_ids, references[0], STEPS, directions=2, seed=6)


def rows(count: int) -> list[list[int]]:
    """About `count` responses, each as often as its probability says."""
    times = np.rint(count * probability_N(HOT)).astype(int)
    return [one for one, often in zip(responses(), times, strict=True) for _ in range(often)]


def check(found: SpaceFacts, scores_NTD: Floats) -> None:
    """Against sums over all responses. `scores_NTD` times itself gives squared norms."""
    weights_N = probability_N(HOT)
    sums_NTD = scores_NTD.cumsum(axis=1)
    assert found.square_T == pytest.approx(weights_N @ (sums_NTD**2).sum(axis=2), rel=0.01)
    assert found.walk_T == pytest.approx(weights_N @ (scores_NTD**2).sum(axis=2).cumsum(axis=1), rel=0.01)
    mean_TD = np.tensordot(weights_N, sums_NTD, axes=1)
    assert found.drift_T == pytest.approx((mean_TD**2).sum(axis=1), rel=0.03, abs=0.01 * found.square_T[-1])
    centred = scores_NTD - np.tensordot(weights_N, scores_NTD, axes=1)
    exact = np.einsum("n,ntd,nsd->ts", weights_N, centred, centred)
    sums = found.covariance[Along.every]
    assert sums.diagonal == pytest.approx(np.trace(exact), rel=0.01)
    assert sums.sums_B == pytest.approx([2 * (exact[0, 1] + exact[1, 2]), 2 * exact[0, 2]], abs=0.01 * sums.diagonal)
    assert 0 < found.share_of_bound <= 1


def test_facts_of_logits_against_all_responses() -> None:
    scores_NTD = np.zeros((len(responses()), STEPS, VOCABULARY))
    for n, (logits_TV, one) in enumerate(zip(policy().logits(PROMPT.token_ids, responses()), responses(), strict=True)):
        scores_NTD[n, : len(one)] = np.eye(VOCABULARY)[one] - logits_TV.double().softmax(dim=-1).numpy()
    chosen = rows(4_000)
    matched = matched_NT(chosen, work().reference, STEPS)
    check(logit_facts(work(), Sampled(chosen, matched)), scores_NTD)


def test_facts_of_parameters_against_all_responses() -> None:
    """Scores by reverse mode, along the two directions that the probe draws from its seed."""
    generator = torch.Generator().manual_seed(work().seed)
    at = policy().parameters
    drawn = [gaussian(at, generator) for _ in range(2)]
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in at.items()}
    projected = np.zeros((len(responses()), STEPS, 2))
    with policy().differentiable():
        values_NT = policy().log_probs(PROMPT.token_ids, responses())(leaves)
        for n, t in itertools.product(range(len(responses())), range(STEPS)):
            if t < len(responses()[n]):
                score = torch.autograd.grad(values_NT[n, t], list(leaves.values()), retain_graph=True)
                for k, direction in enumerate(drawn):
                    projected[n, t, k] = sum(
                        float((one * along).sum()) for one, along in zip(score, direction.values(), strict=True)
                    )
    chosen = rows(4_000)
    sampled = Sampled(chosen, matched_NT(chosen, work().reference, STEPS))
    reference = reference_direction(work())
    assert length(reference) == pytest.approx(1, abs=1e-5)
    check(parameter_facts(work(), sampled, reference), projected / np.sqrt(2))  # their mean, not their sum
    facts = gamma_facts(work(), chosen[::40], reference, draws=2, scale=0.01)
    small = gamma_facts(work(), chosen[::40], reference, draws=2, scale=0.005)
    assert np.abs(facts.matrix_TT).max() > 0
    assert small.matrix_TT == pytest.approx(facts.matrix_TT / 4, rel=1e-3)


def test_rollouts_of_the_engine_against_all_responses() -> None:
    """Sampling noise of 2,000 rollouts: four standard deviations are 0.045."""
    rollouts = sample_all(Asked(2_000, 1, PARAMS), [PROMPT], policy(), [(Who.hot, policy(), HOT)])
    (condition,), (reference,) = rollouts.conditions, rollouts.references
    matched_every = matched_NT(responses(), reference, STEPS)
    exact_T = probability_N(HOT) @ matched_every
    assert match_probability_T(condition.deviation_PT[0]) == pytest.approx(exact_T[: len(reference)], abs=1e-5)
    found_T = matched_NT(condition.responses_PN[0], reference, STEPS).mean(axis=0)
    assert found_T == pytest.approx(exact_T, abs=0.045)
    assert rollouts.steps == STEPS
