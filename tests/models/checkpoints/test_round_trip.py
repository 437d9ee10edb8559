"""Hugging Face to NeMo and back is bit for bit, for every family, format, type and way of cutting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from s2l_nemo.models.checkpoints.compare import compare
from s2l_nemo.models.checkpoints.open import open_checkpoint
from s2l_nemo.models.checkpoints.to_nemo import Format
from s2l_nemo.models.formats.dtypes import BFLOAT16
from tests.distributed.conversion import to_hf, to_nemo
from tests.distributed.models import VARIANTS, write_internlm2, write_qwen3, write_variant


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: x for file in sorted(folder.glob("*.safetensors")) for name, x in load_file(file).items()}


def numbered(folder: Path) -> Path:
    """Replaces the weights by all different ones, so that any exchange of rows or columns shows."""
    start = 0
    for file in sorted(folder.glob("*.safetensors")):
        renewed = {}
        for name, tensor in load_file(file).items():
            bits = torch.int32 if tensor.element_size() == 4 else torch.int16
            # bit patterns, most of them ordinary numbers: 16 bits repeat after 65,536 elements, 32 bits do not
            renewed[name] = torch.arange(start, start + tensor.numel()).to(bits).view(tensor.dtype).view(tensor.shape)
            start += tensor.numel() + 1
        save_file(renewed, file, {"format": "pt"})
    return folder


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert sorted(one) == sorted(other)
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        assert torch.equal(tensor.view(torch.uint8), other[name].view(torch.uint8)), name  # NaNs are bits too


SOURCES: dict[str, Any] = {
    "tied": lambda folder: write_qwen3(folder, tied=True),
    "untied, 3 shards": lambda folder: write_qwen3(folder, tied=False, shards=3),
    "bfloat16, 2 shards": lambda folder: write_qwen3(folder, tied=False, dtype=torch.bfloat16, shards=2),
    "float16": lambda folder: write_qwen3(folder, dtype=torch.float16),
    "internlm2": lambda folder: write_internlm2(folder),
    "internlm2 bfloat16": lambda folder: write_internlm2(folder, dtype=torch.bfloat16, heads=4, kv_heads=4),
    **{name: lambda folder, name=name: write_variant(folder, name, shards=2) for name in VARIANTS},
    "qwen2 bfloat16": lambda folder: write_variant(folder, "qwen2", dtype=torch.bfloat16),
    "unusual figures": lambda folder: write_qwen3(
        folder, tied=False, hidden=40, layers=3, rope_theta=54321.0, rms_norm_eps=3e-5, num_attention_heads=6,
        num_key_value_heads=3, head_dim=10, intermediate_size=72, vocab_size=310, max_position_embeddings=77,
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", Format)
@pytest.mark.parametrize("source", SOURCES)
def test_there_and_back(tmp_path: Path, source: str, form: Format) -> None:
    original = numbered(SOURCES[source](tmp_path / "hf"))
    nemo = to_nemo(original, tmp_path / "nemo", form)
    back = to_hf(nemo, tmp_path / "back")
    assert_same(tensors(original), tensors(back))
    assert list(compare(open_checkpoint(original), open_checkpoint(nemo), lambda count: None)) == []
    for file in original.iterdir():
        if "safetensors" not in file.name:  # config, tokenizer, chat template, ...: byte for byte
            assert (back / file.name).read_bytes() == file.read_bytes()
    assert not (original / "EXECUTED").exists()


def test_the_weights_of_that_test_are_all_different(tmp_path: Path) -> None:
    values = torch.cat([x.view(torch.int32).flatten() for x in tensors(numbered(write_qwen3(tmp_path))).values()])
    assert len(values.unique()) == len(values)


def test_figures_come_from_config_json(tmp_path: Path) -> None:
    source = SOURCES["unusual figures"](tmp_path / "hf")
    nemo = to_nemo(source, tmp_path / "nemo", Format.NEMO_DIR)
    config = yaml.safe_load((nemo / "model_config.yaml").read_text())
    wanted = {
        "num_layers": 3, "hidden_size": 40, "ffn_hidden_size": 72, "num_attention_heads": 6, "num_query_groups": 3,
        "kv_channels": 10, "rotary_base": 54321.0, "layernorm_epsilon": 3e-5, "override_vocab_size": 310,
        "max_position_embeddings": 77, "share_embeddings_and_output_weights": False, "qk_layernorm": True,
    }  # fmt: skip
    assert {key: config[key] for key in wanted} == wanted


def test_a_redundant_output_layer_comes_back_only_where_it_was(tmp_path: Path) -> None:
    """The hub's Qwen3-0.6B is tied and repeats its embedding as lm_head."""
    source = write_qwen3(tmp_path / "hf", tied=True)
    weights = load_file(source / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    for form in Format:
        checkpoint = open_checkpoint(to_nemo(source, tmp_path / form.value, form))
        assert checkpoint.redundant_output
    plain = open_checkpoint(to_nemo(write_qwen3(tmp_path / "plain"), tmp_path / "plain_nemo", Format.NEMO_DIR))
    assert not plain.redundant_output


def test_an_untied_model_after_a_tied_one(tmp_path: Path) -> None:
    """A peer's shared table was changed by the tied model and lost the next one's output layer."""
    to_nemo(write_qwen3(tmp_path / "tied", tied=True), tmp_path / "a", Format.NEMO_DIR)
    untied = write_qwen3(tmp_path / "untied", tied=False)
    back = to_hf(to_nemo(untied, tmp_path / "b", Format.NEMO_DIR), tmp_path / "back")
    assert_same(tensors(untied), tensors(back))
    assert "lm_head.weight" in tensors(back)


def test_the_engine_form_of_internlm2(tmp_path: Path) -> None:
    """Names, configuration and tokenizer that need no remote code, and the same weights."""
    from transformers import AutoTokenizer

    source = numbered(write_internlm2(tmp_path / "hf"))
    llama = to_hf(to_nemo(source, tmp_path / "nemo", Format.NEMO_DIR), tmp_path / "llama", engine_form=True)
    config = json.loads((llama / "config.json").read_text())
    assert (config["architectures"], config["model_type"]) == (["LlamaForCausalLM"], "llama")
    assert config["rope_theta"] == 1e6
    assert config["rms_norm_eps"] == 1e-5
    assert "auto_map" not in config
    assert not list(llama.glob("*.py"))
    assert AutoTokenizer.from_pretrained(llama, trust_remote_code=False)("hi").input_ids
    mine, theirs = tensors(source), tensors(llama)
    head = 16  # rows: groups of 2 q heads, k, v
    qkv = mine["model.layers.1.attention.wqkv.weight"].view(2, 4, head, -1)
    assert torch.equal(theirs["model.layers.1.self_attn.q_proj.weight"], qkv[:, :2].reshape(64, -1))
    assert torch.equal(theirs["model.layers.1.self_attn.k_proj.weight"], qkv[:, 2].reshape(32, -1))
    assert torch.equal(theirs["model.layers.1.self_attn.v_proj.weight"], qkv[:, 3].reshape(32, -1))
    assert torch.equal(theirs["model.layers.1.mlp.up_proj.weight"], mine["model.layers.1.feed_forward.w3.weight"])
    assert list(compare(open_checkpoint(source), open_checkpoint(llama), lambda count: None)) == []
    again = to_hf(to_nemo(llama, tmp_path / "llama_nemo", Format.NEMO), tmp_path / "llama_back")
    assert_same(theirs, tensors(again))


def test_casting(tmp_path: Path) -> None:
    source = write_qwen3(tmp_path / "hf")
    checkpoint = open_checkpoint(source, BFLOAT16)
    original = tensors(source)
    from s2l_nemo.models.checkpoints.tensors import named_tensors

    for named in named_tensors(checkpoint, "qwen3"):
        for name, tensor in named.items():
            assert torch.equal(tensor, original[name].to(torch.bfloat16))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_foreign_checkpoint_of_any_family_is_the_same_model(tmp_path: Path, name: str) -> None:
    """config.json is made from NeMo's figures; transformers computes the same with it."""
    source = write_variant(tmp_path / "hf", name)
    nemo = to_nemo(source, tmp_path / "nemo", Format.NEMO_DIR)
    for file in (nemo / "huggingface").iterdir():
        file.unlink()
    back = to_hf(nemo, tmp_path / "back")
    assert_same(tensors(source), tensors(back))
    assert open_checkpoint(back).shape == open_checkpoint(nemo).shape == open_checkpoint(source).shape
    tokens = torch.arange(200)[None]
    mine, theirs = (AutoModelForCausalLM.from_pretrained(folder)(tokens).logits for folder in (source, back))
    assert torch.equal(mine, theirs)


def test_a_foreign_checkpoint_without_hugging_face_files(tmp_path: Path) -> None:
    """The figures come from model_config.yaml, or all of it from --hf-files."""
    source = write_qwen3(tmp_path / "hf", tied=False)
    nemo = to_nemo(source, tmp_path / "nemo", Format.NEMO_DIR)
    for file in (nemo / "huggingface").iterdir():
        file.unlink()
    assert open_checkpoint(nemo).shape == open_checkpoint(source).shape
    assert_same(tensors(source), tensors(to_hf(nemo, tmp_path / "back")))
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["rope_theta"] == 1e6
    with_files = to_hf(nemo, tmp_path / "with_files", hf_files=source)
    assert (with_files / "config.json").read_bytes() == (source / "config.json").read_bytes()
    assert (with_files / "tokenizer.json").is_file()


def test_the_padded_vocabulary_is_not_exported(tmp_path: Path) -> None:
    """NeMo pads to a multiple of 128 x TP by default; what it adds is no part of the model."""
    source = write_qwen3(tmp_path / "padded", tied=False, vocab_size=384)
    nemo = to_nemo(source, tmp_path / "nemo", Format.NEMO_DIR)
    for file in (nemo / "huggingface" / "config.json", nemo / "model_config.yaml"):
        file.write_text(file.read_text().replace("384", "304"))
    exported = tensors(to_hf(nemo, tmp_path / "back"))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(exported[name], tensors(source)[name][:304])
