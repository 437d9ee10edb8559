"""Packed weights against plain ones: products, biases, and that they follow a refit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from s2l_nemo.engines.embedded import matrix
from s2l_nemo.engines.embedded.engine import EmbeddedLearnerEngine
from s2l_nemo.engines.embedded.matrix import Matrix
from s2l_nemo.types import SamplingParams, Source
from tests.arrays import tokens_of
from tests.engines.random_qwen3 import build_model, make_requests


@pytest.fixture
def packed_from_one_element(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "_PACKED_FROM", 1)


@pytest.mark.parametrize("elements", [1, 2**40], ids=["packed", "plain"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 8, 33])
def test_equals_the_layers(monkeypatch: pytest.MonkeyPatch, rows: int, bias: bool, elements: int) -> None:
    monkeypatch.setattr(matrix, "_PACKED_FROM", elements)
    torch.manual_seed(rows)
    layers = [nn.Linear(24, outputs, bias=bias).requires_grad_(False) for outputs in (16, 40)]
    x, y = torch.randn(rows, 24), torch.randn(rows, 56)
    wanted = torch.cat([layer(x) for layer in layers], dim=1)
    whole = Matrix.of(layers)
    torch.testing.assert_close(whole(x), wanted)
    torch.testing.assert_close(whole.added(y, x), wanted + y)
    torch.testing.assert_close(layers[1](x), wanted[:, 16:])  # its weight is a part of the matrix's
    layers[1].weight.mul_(2)
    whole.pack()
    torch.testing.assert_close(whole(x), torch.cat([layer(x) for layer in layers], dim=1))


def test_a_large_float32_weight_is_packed_on_this_machine() -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("torch was built without oneDNN")
    layer = nn.Linear(512, 512).requires_grad_(False)
    assert Matrix.of([layer])._packed is not None
    assert Matrix.of([nn.Linear(8, 8).requires_grad_(False)])._packed is None
    assert Matrix.of([layer.double()])._packed is None


@pytest.mark.usefixtures("packed_from_one_element")
@pytest.mark.parametrize("tied", [False, True])
def test_packed_weights_follow_a_refit(tied: bool) -> None:
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
