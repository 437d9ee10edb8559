"""What Megatron-LM's own loader reads beside the weights. tests/releases/test_megatron_lm.py runs the loader itself."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from s2l_nemo.models.checkpoints.command import run_command
from s2l_nemo.models.checkpoints.open import open_checkpoint
from s2l_nemo.models.checkpoints.to_nemo import Format
from s2l_nemo.models.megatron_lm import load_arguments
from tests.distributed.conversion import to_nemo
from tests.distributed.models import write_internlm2, write_qwen3, write_variant
from tests.megatron_lm import FOR_OTHERS, MODEL, STRICT
from tools import convert_hf_to_nemo


def arguments_of(source: Path, root: Path) -> Namespace:
    folder = to_nemo(source, root, Format.MEGATRON) / "release"
    with torch.serialization.safe_globals([Namespace]):
        arguments = torch.load(folder / "common.pt", weights_only=True)["args"]
    assert isinstance(arguments, Namespace)
    return arguments


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sources")
    return {
        "qwen3 tied": write_qwen3(folder / "qwen3_tied", layers=1),
        "qwen3": write_qwen3(folder / "qwen3", layers=1, tied=False),
        "qwen2": write_variant(folder / "qwen2", "qwen2"),
        "llama3": write_variant(folder / "llama3", "llama3"),
        "yarn": write_variant(folder / "yarn", "yarn"),
        "internlm2": write_internlm2(folder / "internlm2", layers=1),
    }


def test_every_family_gives_every_name_that_the_loader_reads(sources: dict[str, Path], tmp_path: Path) -> None:
    for family, source in sources.items():
        written = vars(arguments_of(source, tmp_path / family))
        assert not [name for name in MODEL | STRICT if written.get(name) is None]
        assert not FOR_OTHERS & written.keys()


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("qwen3 tied", {"untie_embeddings_and_output_weights": False, "qk_layernorm": True, "add_qkv_bias": False}),
        ("qwen3", {"untie_embeddings_and_output_weights": True, "qk_layernorm": True, "kv_channels": 24}),
        ("qwen2", {"untie_embeddings_and_output_weights": True, "qk_layernorm": False, "add_qkv_bias": True}),
        ("llama3", {"add_qkv_bias": False, "rotary_base": 1000, "use_rope_scaling": True, "rope_scaling_factor": 8.0}),
        ("internlm2", {"add_qkv_bias": False, "rotary_base": 1_000_000, "num_query_groups": 2, "qk_layernorm": False}),
    ],
)
def test_values(family: str, expected: dict[str, Any], sources: dict[str, Path], tmp_path: Path) -> None:
    written = vars(arguments_of(sources[family], tmp_path / "root"))
    assert {name: written[name] for name in expected} == expected


def test_values_that_all_families_share(sources: dict[str, Path], tmp_path: Path) -> None:
    written = vars(arguments_of(sources["qwen3"], tmp_path / "root"))
    assert written["swiglu"] is True
    assert (written["normalization"], written["add_bias_linear"]) == ("RMSNorm", False)
    assert (written["position_embedding_type"], written["add_position_embedding"]) == ("rope", False)
    assert written["padded_vocab_size"] % written["make_vocab_size_divisible_by"] == 0


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("qwen3", ["--norm-epsilon", "1e-06", "--qk-layernorm"]),
        ("qwen2", ["--norm-epsilon", "1e-06"]),
        ("llama3", ["--norm-epsilon", "1e-06", "--use-rope-scaling", "--rope-scaling-factor", "8.0"]),
        ("internlm2", ["--norm-epsilon", "1e-05"]),
    ],
)
def test_arguments_that_it_reads_from_no_checkpoint(family: str, expected: list[str], sources: dict[str, Path]) -> None:
    checkpoint = open_checkpoint(sources[family])
    assert load_arguments(checkpoint.shape, checkpoint.dtype) == ["--use-checkpoint-args", *expected]


def test_the_command_says_them(sources: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--input", str(sources["qwen3"]), "--output", str(tmp_path / "a root"), "--format", "megatron"]
    assert run_command(lambda: convert_hf_to_nemo.main([*arguments, "--dtype", "bf16"])) == 0
    said = capsys.readouterr()
    assert said.err == ""
    load = f"--load '{tmp_path}/a root' --use-checkpoint-args --norm-epsilon 1e-06 --qk-layernorm --bf16"
    assert said.out.splitlines()[-1] == f"Megatron-LM loads it with {load}"


@pytest.mark.parametrize("family", ["yarn", "llama3"])  # of 64 positions, where Megatron-LM knows 8,192
def test_the_command_names_positions_that_megatron_lm_cannot_express(
    family: str, sources: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--input", str(sources[family]), "--output", str(tmp_path / "root"), "--format", "megatron"]
    assert run_command(lambda: convert_hf_to_nemo.main(arguments)) == 0
    assert "no arguments for its rope_scaling" in capsys.readouterr().err
