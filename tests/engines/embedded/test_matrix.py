"""A matrix against the layers that it joins, in every form that a CPU reads, and that all of them follow a refit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from llvmlite.binding import get_host_cpu_features
from torch import nn

from s2l_nemo.config.load import load_config
from s2l_nemo.engines.embedded import cpu_matrix, products
from s2l_nemo.engines.embedded.compiled import numbers, share_threads
from s2l_nemo.engines.embedded.cpu_decoder import CpuDecoder
from s2l_nemo.engines.embedded.cpu_matrix import CpuMatrix
from s2l_nemo.engines.embedded.engine import EmbeddedLearnerEngine
from s2l_nemo.engines.embedded.matrix import Matrix
from s2l_nemo.models.hf_config import shape_from_config_json
from s2l_nemo.planner.memory import engine_weights
from s2l_nemo.types import SamplingParams, Source
from tests.arrays import tokens_of
from tests.engines.random_qwen3 import build_model, make_requests
from tests.random_qwen3 import random_qwen3

CONF = Path(__file__).parents[3] / "conf"
KINDS = st.sampled_from([torch.float32, torch.bfloat16])


def multiplied(matrix: CpuMatrix, x_BK: torch.Tensor) -> torch.Tensor:
    out_BN = torch.full((len(x_BK), matrix.outputs), torch.nan)
    matrix.multiply(numbers(x_BK), out_BN.numpy())
    return out_BN


def take_form(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """Of the three in which a CPU keeps a weight, whatever this one would take."""
    monkeypatch.setattr(products, "_CAN", products._CAN and form == "panels")
    monkeypatch.setattr(cpu_matrix, "_BLOCKS_FROM", 1 if form == "blocks" else 2**40)


FORMS = pytest.mark.parametrize("form", ["panels", "blocks", "plain"])


@FORMS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 8, 33])
def test_equals_the_layers(
    monkeypatch: pytest.MonkeyPatch, rows: int, bias: bool, dtype: torch.dtype, form: str
) -> None:
    take_form(monkeypatch, form)
    torch.manual_seed(rows)
    layers = [nn.Linear(24, outputs, bias=bias, dtype=dtype).requires_grad_(False) for outputs in (16, 40)]
    x = torch.randn(rows, 24).to(dtype)
    near = 1e-5 if dtype == torch.float32 else 2e-2

    def wanted() -> torch.Tensor:
        wide = x.float()
        return torch.cat([wide @ layer.weight.float().T + (layer.bias.float() if bias else 0) for layer in layers], 1)

    whole = CpuMatrix.of(layers)
    torch.testing.assert_close(multiplied(whole, x), wanted(), atol=near, rtol=near)
    layers[1].weight.mul_(2)  # it is a part of the matrix's
    if bias:
        layers[0].bias.add_(1)
    whole.pack()
    torch.testing.assert_close(multiplied(whole, x), wanted(), atol=near, rtol=near)


@pytest.mark.parametrize("bias", [False, True])
def test_a_matrix_of_torch(bias: bool) -> None:
    layers = [nn.Linear(24, outputs, bias=bias).requires_grad_(False) for outputs in (16, 40)]
    x, y, whole = torch.randn(3, 24), torch.randn(3, 56), Matrix.of(layers)
    wanted = torch.cat([layer(x) for layer in layers], dim=1)
    torch.testing.assert_close(whole(x), wanted)
    torch.testing.assert_close(whole.added(y, x), wanted + y)
    layers[1].weight.mul_(2)
    torch.testing.assert_close(whole(x), torch.cat([layer(x) for layer in layers], dim=1))


@pytest.mark.parametrize("amx", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_rows_of_bfloat16_are_for_amx(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, amx: bool) -> None:
    if not products._CAN:
        pytest.skip("this processor has no such products")
    monkeypatch.setattr(cpu_matrix, "_HAS_AMX", amx)
    layer = nn.Linear(512, 512, bias=False, dtype=dtype).requires_grad_(False)
    matrix, x = CpuMatrix.of([layer]), torch.randn(17, 512).to(dtype)
    assert matrix.panels_PX is not None
    matrix.panels_PX.fill(0)  # so that it shows which ones were read
    assert not multiplied(matrix, x[:16]).any()
    if amx and dtype == torch.bfloat16:
        torch.testing.assert_close(multiplied(matrix, x), layer(x).float(), atol=2e-2, rtol=1e-2)
    else:
        assert matrix._blocks is None
        assert not multiplied(matrix, x).any()


@given(KINDS, st.integers(1, 20), st.integers(1, 150), st.integers(1, 40), st.integers(1, 2), st.integers(0, 99))
def test_products(dtype: torch.dtype, rows: int, outputs: int, inputs: int, threads: int, seed: int) -> None:
    """Of any number of rows and outputs, with the same bits for a row in whatever batch and by however many threads."""
    if not products._CAN:
        pytest.skip("this processor has no such products")
    torch.manual_seed(seed)
    inputs += inputs % 2
    x, weight, bias = torch.randn(rows, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype), torch.randn(outputs)
    panels, out = numbers(products.panels(weight)), torch.full((rows, outputs), torch.nan)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        share_threads()
        products.multiply_for(dtype)(numbers(x), panels, bias.numpy(), out.numpy())
    finally:
        torch.set_num_threads(before)
        share_threads()
    wanted = x.double() @ weight.double().T + bias
    torch.testing.assert_close(out.double(), wanted, atol=1e-5, rtol=1e-5)
    alone = torch.empty(1, outputs)
    products.multiply_for(dtype)(numbers(x[-1:]), panels, bias.numpy(), alone.numpy())
    assert torch.equal(alone[0], out[-1])
    none = np.empty(0, np.float32)
    products.multiply_for(dtype)(numbers(x), panels, none, out.numpy())
    torch.testing.assert_close(out.double(), wanted - bias, atol=1e-5, rtol=1e-5)


OTHER_PROCESSOR = """
import numpy, torch
from s2l_nemo.engines.embedded import products
from s2l_nemo.engines.embedded.compiled import numbers
for dtype in (torch.float32, torch.bfloat16):
    for rows in (1, 4, 5, 8, 9, 17):
        x, weight, bias = torch.randn(rows, 30).to(dtype), torch.randn(61, 30).to(dtype), torch.randn(61)
        out = torch.empty(rows, 61)
        products.multiply_for(dtype)(numbers(x), numbers(products.panels(weight)), bias.numpy(), out.numpy())
        wanted = x.double() @ weight.double().T + bias
        torch.testing.assert_close(out.double(), wanted, atol=1e-5, rtol=1e-5)
print(products._LANES, products._ROWS)
"""


@pytest.mark.parametrize(
    ("processor", "lacks", "takes"), [("cascadelake", "avx512bf16", "16 8"), ("haswell", "avx512", "8 4")]
)
def test_products_of_lesser_processors(tmp_path: Path, processor: str, lacks: str, takes: str) -> None:
    """With AVX-512 that does not know bfloat16, and with AVX2."""
    here = get_host_cpu_features()
    if not (here.get("avx512f") if takes == "16 8" else here.get("avx2")):
        pytest.skip("this processor cannot run their code")
    features = ",".join(f"{'-' if name.startswith(lacks) or not has else '+'}{name}" for name, has in here.items())
    variables = {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESSOR],
        env={**os.environ, **variables}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.strip() == takes


def test_a_weight_without_pairs_of_inputs_has_no_panels() -> None:
    weight = torch.randn(5, 7)
    assert not products.fits(weight.bfloat16())
    assert products.fits(weight) is products._CAN
    assert not products.fits(weight.double())


@FORMS
@pytest.mark.parametrize("tied", [False, True])
def test_every_form_follows_a_refit(monkeypatch: pytest.MonkeyPatch, tied: bool, form: str) -> None:
    take_form(monkeypatch, form)
    requests, params = make_requests(prompts=3, samples=2), SamplingParams(12, stop_token_ids=())
    old, new = (build_model(seed=seed, tied=tied) for seed in (0, 1))
    weights: dict[str, Any] = {name: tensor.detach().clone() for name, tensor in new.named_parameters()}
    engine = EmbeddedLearnerEngine(old, source=Source.LEARNER, max_batch_rows=64)
    before = tokens_of(engine.generate(requests, params))
    engine.update_weights([weights], version=1)
    after = tokens_of(engine.generate(requests, params))
    wanted = EmbeddedLearnerEngine(new, source=Source.LEARNER, max_batch_rows=64).generate(requests, params)
    assert after == tokens_of(wanted)
    assert after != before


@pytest.mark.parametrize("tied", [False, True])
def test_panels_take_what_the_planner_counts(tied: bool) -> None:
    """But for the norms, which have none. The figures fill panels of either width."""
    if not products._CAN:
        pytest.skip("this processor has no such products")
    figures = {"vocab_size": 480, "hidden_size": 96, "head_dim": 24, "intermediate_size": 192}
    model = random_qwen3(tie_word_embeddings=tied, **figures).eval()
    shape = shape_from_config_json(Path("config.json"), model.config.to_dict())
    cfg = load_config(["trainer.accelerator=cpu"], CONF)
    before = sum(parameter.nbytes for parameter in model.parameters())
    panels = [matrix.panels_PX for matrix in CpuDecoder(model)._matrices]
    assert sum(parameter.nbytes for parameter in model.parameters()) == before == 4 * shape.parameters
    norms = 4 * shape.layers * (2 * shape.hidden + 2 * shape.head_dim)
    held = before + sum(panel.nbytes for panel in panels if panel is not None)
    assert engine_weights(cfg, shape) == held + norms


THREADS = """
import torch
torch.set_num_threads(1)
from s2l_nemo.engines.embedded import kernels, products
from s2l_nemo.engines.embedded.compiled import share_threads
import numba
share_threads()
print(torch.get_num_threads(), numba.get_num_threads())
"""


def test_kernels_take_as_many_threads_as_torch_and_do_not_change_that() -> None:
    """numba's first use of OpenMP tells it to use all cores: then a rank with one thread would have all of them."""
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2"}
    run = subprocess.run([sys.executable, "-c", THREADS], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["1", "1"]
