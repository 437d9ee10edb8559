"""What NeMo saves on several ranks, read without NeMo: bit for bit the weights of the Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from s2l_nemo.models.checkpoints.tensors import tensor_of
from s2l_nemo.models.formats.dtypes import FLOAT32
from s2l_nemo.models.formats.regions import tar_regions
from s2l_nemo.models.formats.torch_dist import TorchDistReader
from tests.distributed.models import write_qwen3
from tests.distributed.ranks import run_ranks
from tests.distributed.test_layouts import build

LAYERS, KV_HEADS = 4, 2  # of write_qwen3


def save(folder: Path, tp: int, pp: int, file: Path) -> None:
    build(folder, tp, pp).save_nemo(file)


def expected(folder: Path) -> dict[tuple[str, int | None], torch.Tensor]:
    """Megatron's full tensors by name and layer, put together here from the Hugging Face file."""
    hf = load_file(folder / "model.safetensors")
    tensors: dict[tuple[str, int | None], torch.Tensor] = {
        ("embedding.word_embeddings.weight", None): hf["model.embed_tokens.weight"],
        ("decoder.final_layernorm.weight", None): hf["model.norm.weight"],
        ("output_layer.weight", None): hf["lm_head.weight"],
    }
    for layer in range(LAYERS):
        get = {name.removeprefix(f"model.layers.{layer}."): tensor for name, tensor in hf.items()}
        q, k, v = (
            get[f"self_attn.{name}_proj.weight"].view(KV_HEADS, -1, hf["model.norm.weight"].numel()) for name in "qkv"
        )
        of_layer = {
            "self_attention.linear_qkv.weight": torch.cat([q, k, v], dim=1).flatten(0, 1),
            "self_attention.linear_qkv.layer_norm_weight": get["input_layernorm.weight"],
            "self_attention.q_layernorm.weight": get["self_attn.q_norm.weight"],
            "self_attention.k_layernorm.weight": get["self_attn.k_norm.weight"],
            "self_attention.linear_proj.weight": get["self_attn.o_proj.weight"],
            "mlp.linear_fc1.layer_norm_weight": get["post_attention_layernorm.weight"],
            "mlp.linear_fc1.weight": torch.cat([get["mlp.gate_proj.weight"], get["mlp.up_proj.weight"]]),
            "mlp.linear_fc2.weight": get["mlp.down_proj.weight"],
        }
        tensors.update({(f"decoder.layers.{name}", layer): tensor for name, tensor in of_layer.items()})
    return tensors


@pytest.mark.parametrize(("tp", "pp"), [(2, 1), (1, 2)])
def test_reads_what_nemo_saves(tmp_path: Path, tp: int, pp: int) -> None:
    folder = write_qwen3(tmp_path / "hf", tied=False)
    file = tmp_path / "model.nemo"
    run_ranks(save, tp * pp, folder, tp, pp, file)
    prefix = "model_weights/"
    files = {name.removeprefix(prefix): region for name, region in tar_regions(file).items() if prefix in name}
    found = TorchDistReader(files, file)
    wanted = expected(folder)
    assert set(found.tensors) == {f"model.{name}" for name, _ in wanted}
    for (name, layer), tensor in wanted.items():
        rows = found.rows(f"model.{name}", layer)
        assert torch.equal(tensor_of(rows, FLOAT32, tuple(tensor.shape)), tensor), (name, layer)
