"""Stretched positions: the frequencies of transformers, and what a config.json may say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Qwen3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from s2l_nemo.errors import UserError
from s2l_nemo.models.frequencies import inverse_frequencies
from s2l_nemo.models.rope import STRETCHED, Llama3Scaling, RopeType, YarnScaling, hf_rope_scaling, rope_scaling_of

PATH = Path("config.json")
LLAMA3: dict[str, Any] = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
YARN: dict[str, Any] = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
R1_QWEN3_8B = {**YARN, "attn_factor": 0.8782488562869419}  # DeepSeek-R1-0528-Qwen3-8B's


def scaling_of(given: Any, positions: int = 131072, **config: Any) -> Any:
    return rope_scaling_of(PATH, {"rope_scaling": given, "max_position_embeddings": positions, **config}, STRETCHED)


def transformers_(given: dict[str, Any] | None, head_dim: int, theta: float, positions: int) -> tuple[Any, float]:
    config = Qwen3Config(head_dim=head_dim, rope_theta=theta, max_position_embeddings=positions, rope_scaling=given)
    kind = given["rope_type"] if given else "default"
    frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config, None)
    return frequencies, factor


def assert_equals_transformers(given: dict[str, Any] | None, head_dim: int, theta: float, positions: int) -> None:
    scaling = scaling_of(given, positions)
    expected, factor = transformers_(given, head_dim, theta, positions)
    torch.testing.assert_close(inverse_frequencies(head_dim, theta, scaling), expected, rtol=1e-6, atol=0)
    if isinstance(scaling, YarnScaling):
        assert scaling.attention_factor == pytest.approx(factor)


@pytest.mark.parametrize("scaling", [None, LLAMA3, LLAMA3 | {"factor": 32.0}, YARN, R1_QWEN3_8B])
def test_public_models_are_equal_to_the_bit(scaling: dict[str, Any] | None) -> None:
    expected, _ = transformers_(scaling, 128, 5e5, 131072)
    assert torch.equal(inverse_frequencies(128, 5e5, scaling_of(scaling)), expected)


@st.composite
def any_scaling(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """With the positions that it leads to."""
    original, factor = 2 ** draw(st.integers(5, 15)), float(draw(st.sampled_from([1, 1.5, 2, 4, 32])))
    if draw(st.booleans()):
        low = draw(st.floats(0.5, 2))
        high = low + draw(st.floats(0.1, 8))
        return {**LLAMA3, "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
                "original_max_position_embeddings": original}, 131072  # fmt: skip
    given: dict[str, Any] = {**YARN, "factor": factor, "original_max_position_embeddings": original}
    slow = draw(st.floats(0.5, 4))
    given |= draw(st.sampled_from([{}, {"beta_slow": slow, "beta_fast": slow + draw(st.floats(0, 60))}]))
    given |= draw(st.sampled_from([{}, {"attention_factor": 1.25}, {"mscale": 1.0, "mscale_all_dim": 0.7}]))
    return given, int(original * factor)


@given(any_scaling(), st.sampled_from([2, 16, 24, 64, 128]), st.sampled_from([1e3, 1e4, 5e5, 1e6]))
def test_frequencies_are_those_of_transformers(scaling: tuple[Any, int], head_dim: int, theta: float) -> None:
    given, positions = scaling
    assert_equals_transformers(given, head_dim, theta, positions)


def test_llama3_by_hand() -> None:
    """In 32 tokens, theta 16 and head_dim 4: pairs turn 32 / 2 pi = 5.09 times, which is kept, and a quarter of it."""
    scaling = Llama3Scaling(factor=2.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=32)
    kept = (5.0929582 / 4 - 1) / 3
    assert inverse_frequencies(4, 16.0, scaling).tolist() == pytest.approx([1.0, (1 - kept) * 0.125 + kept * 0.25])


def test_yarn_by_hand() -> None:
    """Pair 0 turns 1,304 times in 8,192 tokens and is kept. Pair 7 turns 0.007 times and is slowed by the factor."""
    scaling = scaling_of({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8192}, 16384)
    assert scaling == YarnScaling(2.0, 8192, 32.0, 1.0, 0.1 * math.log(2) + 1)
    plain, stretched = (inverse_frequencies(16, 1e6, one) for one in (None, scaling))
    assert stretched[0] == plain[0] == 1
    assert stretched[7] == plain[7] / 2


@given(any_scaling())
def test_what_is_written_is_read_again(scaling: tuple[Any, int]) -> None:
    given, positions = scaling
    once = scaling_of(given, positions)
    assert scaling_of(hf_rope_scaling(once), positions) == once


def test_transformers_5_has_them_elsewhere() -> None:
    config = {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}, "max_position_embeddings": 131072}
    assert rope_scaling_of(PATH, config, STRETCHED) == Llama3Scaling(8.0, 1.0, 4.0, 8192)


@pytest.mark.parametrize("given", [None, {}, {"rope_type": "default"}, {"type": "default", "rope_theta": 1e6}])
def test_plain_positions(given: Any) -> None:
    assert scaling_of(given) is None


def test_the_old_name_of_the_type() -> None:
    assert scaling_of({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}) == scaling_of(YARN)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1], "rope_scaling=.* must be an object"),
        ({"rope_type": "longrope"}, "type longrope is not supported: give a model with default or llama3 or yarn"),
        ({"rope_type": "dynamic", "factor": 2.0}, "type dynamic is not supported"),
        ({"rope_type": "yarn", "type": "llama3"}, "rope_type=yarn and type=llama3: remove the wrong one"),
        (YARN | {"truncate": False}, r"rope_scaling\.truncate=False is not supported"),
        ({"rope_type": "default", "factor": 2.0}, r"rope_scaling\.factor=2\.0 is not supported"),
        (YARN | {"factor": None}, r"factor=None must be a positive number"),
        (YARN | {"factor": True}, r"factor=True must be a positive number"),
        (YARN | {"beta_fast": 0.5}, r"beta_fast=0\.5 must not be below beta_slow=1\.0"),
        (YARN | {"attention_factor": -1.0}, r"attention_factor=-1\.0 must be a positive number"),
        ({"rope_type": "yarn", "factor": 4.0}, "original_max_position_embeddings=None must be a positive integer"),
        (LLAMA3 | {"high_freq_factor": 1.0}, r"high_freq_factor=1\.0 must be above low_freq_factor=1\.0"),
        (LLAMA3 | {"low_freq_factor": "1"}, "low_freq_factor=1 must be a positive number"),
    ],
)
def test_what_is_refused(given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        scaling_of(given)


def test_a_factor_that_libraries_read_in_two_ways() -> None:
    """Qwen3's model card adds a factor of 4 to 40,960 positions: transformers would stretch by 1.25, vLLM by 4."""
    with pytest.raises(UserError, match=r"libraries differ .*: set max_position_embeddings to 131072, or correct"):
        scaling_of(YARN, 40960)


def test_dynamic_scaling_is_plain_within_the_positions() -> None:
    config = {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 32768}
    assert rope_scaling_of(PATH, config, {RopeType.PLAIN, RopeType.DYNAMIC}) is None
