"""The kernels of a decoding step against torch and transformers, and what they do with numbers that are none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from s2l_nemo.engines.embedded import kernels, sampling
from s2l_nemo.engines.embedded.compiled import numbers
from s2l_nemo.engines.embedded.kernels import Kernels, turn
from s2l_nemo.engines.embedded.sampling import draw_tokens, uniforms

EPS = np.float32(1e-5)


def rmsnorm(weight_H: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    norm = LlamaRMSNorm(len(weight_H), eps=float(EPS)).requires_grad_(False)
    norm.weight.copy_(weight_H)
    normed: torch.Tensor = norm(x)
    return normed


def test_exponential() -> None:
    x = np.linspace(-86.9, 88, 20_001, dtype=np.float32)
    errors = [kernels._exp(one) / np.exp(np.float64(one)) - 1 for one in x]
    assert max(map(abs, errors)) < 3e-7
    assert [kernels._exp(np.float32(one)) for one in (0, -87.1, -1e30, -np.inf)] == [1, 0, 0, 0]
    assert np.isnan(kernels._exp(np.float32(np.nan)))


KINDS = st.sampled_from([torch.float32, torch.bfloat16])


def kernels_of(dtype: torch.dtype) -> Kernels:
    return Kernels.of(numbers(torch.empty(0, dtype=dtype)).dtype)


@given(KINDS, st.integers(1, 5), st.integers(1, 70), st.integers(0, 99))
def test_residual_and_norm(dtype: torch.dtype, rows: int, size: int, seed: int) -> None:
    torch.manual_seed(seed)
    x, delta, weight = torch.randn(rows, size), torch.randn(rows, size), torch.randn(size)
    summed, out = x + delta, torch.empty(rows, size, dtype=dtype)
    kernels_of(dtype).add_norm(x.numpy(), delta.numpy(), weight.numpy(), EPS, numbers(out))
    torch.testing.assert_close(x, summed)
    torch.testing.assert_close(out, rmsnorm(weight, summed).to(dtype))


@given(KINDS, st.integers(1, 5), st.integers(1, 70), st.sampled_from([1.0, 30.0, 1e4]), st.integers(0, 99))
def test_gates(dtype: torch.dtype, rows: int, size: int, scale: float, seed: int) -> None:
    torch.manual_seed(seed)
    both, out = torch.randn(rows, 2 * size) * scale, torch.empty(rows, size, dtype=dtype)
    kernels_of(dtype).gate(both.numpy(), numbers(out))
    gate, up = both.chunk(2, dim=1)
    torch.testing.assert_close(out, (torch.nn.functional.silu(gate) * up).to(dtype))


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 20), st.booleans(), st.integers(0, 99))
def test_rotation(rows: int, key_values: int, group: int, half: int, normed: bool, seed: int) -> None:
    """As Llama and Qwen3 have it, with angles that may differ in the two halves."""
    torch.manual_seed(seed)
    queries = key_values * group
    heads = torch.randn(rows, queries + 2 * key_values, 2 * half)
    (cos, sin), weights = torch.randn(2, rows, 2 * half), torch.randn(2 if normed else 0, 2 * half)
    query, key, value = heads.split([queries, key_values, key_values], dim=1)
    if normed:
        query, key = rmsnorm(weights[0], query), rmsnorm(weights[1], key)
    expected = torch.cat([*apply_rotary_pos_emb(query, key, cos, sin), value], dim=1)
    out = torch.empty_like(expected)
    turn(heads.flatten(1).numpy(), weights.numpy(), EPS, cos.numpy(), sin.numpy(), queries, out.numpy())
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


@given(st.floats(width=32, allow_infinity=True, allow_nan=True))
@example(1.00390625)  # halfway between two: to the even one
@example(1.01171875)
@example(3.4e38)  # to infinity
def test_rounding_to_bfloat16_is_that_of_torch(number: float) -> None:
    """out = 1 * weight, as x is its own length."""
    out = torch.empty(1, 1, dtype=torch.bfloat16)
    one, weight = np.ones((1, 1), np.float32), np.array([number], np.float32)
    kernels_of(out.dtype).add_norm(one, np.zeros((1, 1), np.float32), weight, np.float32(0), numbers(out))
    torch.testing.assert_close(out[0], torch.tensor([number]).bfloat16(), rtol=0, atol=0, equal_nan=True)


@given(st.integers(1, 700), st.sampled_from([0.1, 1.0, 20.0]), st.integers(0, 99))
def test_draws(vocabulary: int, scale: float, seed: int) -> None:
    """Against one sum over the vocabulary in float64, whose rounding matters once in a million draws."""
    torch.manual_seed(seed)
    logits = (torch.randn(50, vocabulary) * scale).masked_fill(torch.rand(50, vocabulary) < 0.3, -torch.inf)
    logits[:, vocabulary // 2] = 0  # so that no row has none
    numbers = uniforms(torch.arange(50) + seed * 50, torch.zeros(50, dtype=torch.long))
    tokens, logprobs = draw_tokens(logits, numbers)
    ends = logits.double().softmax(1).cumsum(1)
    wanted = torch.searchsorted(ends, numbers[:, None] * ends[:, -1:], right=True)[:, 0]
    near = (ends - (numbers[:, None] * ends[:, -1:])).abs().amin(1) < 1e-6
    assert torch.equal(tokens[~near], wanted[~near])
    assert torch.equal(sampling._invert_cdf(logits.softmax(1), numbers)[~near], wanted[~near])  # of a GPU
    expected = logits.double().log_softmax(1).gather(1, tokens[:, None])[:, 0].float()
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("number", [0.0, 1 - 2.0**-53])
def test_no_draw_is_outside_of_what_has_a_probability(number: float) -> None:
    logits = torch.full((1, 1000), -torch.inf)
    logits[0, [300, 700]] = torch.tensor([0.0, -1.0])
    tokens, logprobs = draw_tokens(logits, torch.tensor([number], dtype=torch.float64))
    assert tokens.item() == (700 if number else 300)
    assert logprobs.isfinite().all()


def test_what_is_not_a_number_stays_so_and_in_its_row() -> None:
    rows, size = 3, 8
    broken = torch.randn(rows, 2 * size)
    broken[1, 3] = torch.nan
    out = torch.empty(rows, size)
    kernels_of(torch.float32).gate(broken.numpy(), out.numpy())
    assert out.isnan().nonzero().tolist() == [[1, 3]]
    x = broken[:, :size].contiguous()
    zeros, ones = np.zeros((rows, size), np.float32), np.ones(size, np.float32)
    kernels_of(torch.float32).add_norm(x.numpy(), zeros, ones, EPS, out.numpy())
    assert out.isnan().all(1).tolist() == [False, True, False]
    _, logprobs = draw_tokens(broken, torch.full((rows,), 0.5, dtype=torch.float64))
    assert logprobs.isnan().tolist() == [False, True, False]
    heads, states = torch.randn(rows, 4, size), torch.zeros(2, rows, 1, 5, size)
    heads[1, 2] = torch.nan  # its key
    out = torch.empty(rows, 2 * size)
    columns, prompt_of, lengths = np.zeros(rows, np.int64), np.zeros(rows, np.int64), np.full(1, 4)
    kernels_of(torch.float32).attend(
        heads.numpy(), states.numpy(), states[:, :1].contiguous().numpy(), columns, prompt_of, lengths, out.numpy()
    )
    assert out.isnan().all(1).tolist() == [False, True, False]


LOADED = """
import numpy, torch
from s2l_nemo.engines.embedded import kernels, sampling
out, does = numpy.empty((1, 1), numpy.float32), kernels.Kernels.of(numpy.dtype("float32"))
does.gate(numpy.array([[1, 2]], numpy.float32), out)
print(out[0, 0], sum(kernel.stats.cache_hits.total() for kernel in (does.gate, does.attend)))
"""


@pytest.mark.parametrize("fault", ["none", "half of a file", "no place"])
def test_kept_code_is_used_and_what_is_wrong_with_it_does_no_harm(tmp_path: Path, fault: str) -> None:
    def loaded(**variables: str) -> str:
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), **variables}
        return subprocess.run(
            [sys.executable, "-c", LOADED], env=environment, capture_output=True, text=True, check=True
        ).stdout

    value = f"{2 / (1 + np.exp(-1)):.6}"
    assert loaded().startswith(value[:6])
    if fault == "none":
        assert loaded().split()[1] == "2"
        return
    if fault == "half of a file":
        for path in tmp_path.rglob("*.nbi"):
            path.write_bytes(path.read_bytes()[:20])
        assert loaded().split()[1] == "0"
        return
    assert loaded(NUMBA_CACHE_LOCATOR_CLASSES="IPythonCacheLocator").split()[1] == "0"
