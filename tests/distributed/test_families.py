"""Biases, stretched positions and tied layers of every family: the same numbers at any layout, and transformers'."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.distributed.models import VARIANTS, fixed_batch, write_variant
from tests.distributed.ranks import run_ranks
from tests.distributed.test_layouts import everything, hugging_face_logprobs, relative


@pytest.mark.parametrize("name", VARIANTS)
def test_a_family_trains_at_any_layout(tmp_path: Path, name: str) -> None:
    folder = write_variant(tmp_path, name)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    expected, entropy = hugging_face_logprobs(model, fixed_batch())
    (single,) = run_ranks(everything, 1, folder, 1, 1, {})
    for result in run_ranks(everything, 4, folder, 2, 2, {}):
        assert (result["logprobs"] - expected).abs().max() < 1e-5
        assert (result["entropy"] - entropy).abs().max() < 1e-5
        assert (result["after"] - result["logprobs"]).abs().max() > 1e-2
        assert (result["engine"] - result["after"]).abs().max() < 1e-5  # refitted
        for update, wanted in zip(result["updates"], single["updates"], strict=True):
            assert update == pytest.approx(wanted, rel=1e-5)
        assert result["weights"].keys() == dict(model.named_parameters()).keys()
        for weight, tensor in result["weights"].items():
            # Biases of keys have next to no gradient, as softmax knows no constant, and Adam makes steps of rounding.
            bound = 1e-4 if weight.endswith("k_proj.bias") else 1e-5
            assert relative(tensor, single["weights"][weight]) < bound, weight
            assert not torch.equal(tensor, model.get_parameter(weight)), weight  # everything learns


@pytest.mark.parametrize("name", ["llama3", "yarn", "qwen2 yarn"])
def test_the_batch_is_long_enough_to_tell_stretched_positions(tmp_path: Path, name: str) -> None:
    folder = write_variant(tmp_path, name)
    stretched = AutoModelForCausalLM.from_pretrained(folder).eval()
    plain = AutoModelForCausalLM.from_pretrained(folder, rope_scaling=None).eval()
    expected, other = (hugging_face_logprobs(model, fixed_batch())[0] for model in (stretched, plain))
    assert (expected - other).abs().max() > 1e-3
