"""LoRA adapters: merged as peft merges them, and refused where the sum would not be theirs. Kind 6 of conversion."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from s2l_nemo.errors import UserError
from s2l_nemo.models.checkpoints.adapter import LoraAdapter
from s2l_nemo.models.checkpoints.hugging_face import HuggingFaceCheckpoint
from s2l_nemo.models.checkpoints.open import open_checkpoint
from s2l_nemo.models.checkpoints.tensors import named_tensors
from s2l_nemo.models.formats.dtypes import BFLOAT16, FLOAT32
from s2l_nemo.models.formats.safetensors_folder import SafetensorsFolder
from tests.distributed.models import write_qwen3
from tools import convert_hf_to_nemo, convert_nemo_to_hf

Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen3(tmp_path_factory.mktemp("hf"), layers=2)


def with_peft(hf: Path, folder: Path, **options: Any) -> dict[str, torch.Tensor]:
    """Saves an adapter with random matrices to `folder`. Returns the weights after peft's own merge."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(hf, torch_dtype=torch.float32)
    torch.manual_seed(3)
    tuned: Any = get_peft_model(model, LoraConfig(**options))
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    tuned.save_pretrained(folder)
    merged = tuned.merge_and_unload()
    return {name: one.detach().clone() for name, one in merged.named_parameters()}


def weights_of(hf: Path, adapter: Path) -> dict[str, torch.Tensor]:
    checkpoint = open_checkpoint(hf, adapter=adapter)
    return {name: tensor for one in named_tensors(checkpoint, "qwen3") for name, tensor in one.items()}


@pytest.mark.parametrize(
    "options",
    [
        {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
        {"r": 3, "lora_alpha": 5, "use_rslora": True, "target_modules": "all-linear"},
        {
            "r": 4, "target_modules": ["q_proj", "k_proj", "o_proj", "up_proj"],
            "rank_pattern": {"layers.1.self_attn.q_proj": 2}, "alpha_pattern": {"o_proj": 32},
        },
    ],
)  # fmt: skip
def test_weights_are_those_of_peft(hf: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    theirs = with_peft(hf, tmp_path / "adapter", **options)
    mine = weights_of(hf, tmp_path / "adapter")
    plain = {name: one for each in named_tensors(open_checkpoint(hf), "qwen3") for name, one in each.items()}
    assert mine.keys() <= theirs.keys() | {"lm_head.weight"}
    assert any(not torch.equal(mine[name], plain[name]) for name in mine)
    for name in mine.keys() & theirs.keys():
        torch.testing.assert_close(mine[name], theirs[name], rtol=1e-5, atol=1e-6)


def test_the_converted_model_is_the_merged_one(hf: Path, tmp_path: Path) -> None:
    """Base and adapter in one folder: what peft's own save of a trained model often is."""
    both = tmp_path / "both"
    shutil.copytree(hf, both)
    theirs = with_peft(hf, tmp_path / "adapter", r=2, lora_alpha=4, target_modules="all-linear")
    shutil.copytree(tmp_path / "adapter", both, dirs_exist_ok=True)
    nemo, back = tmp_path / "merged.nemo", tmp_path / "back"
    convert_hf_to_nemo.main(["--input", str(both), "--output", str(nemo), "--merge-adapter", str(both)])
    convert_nemo_to_hf.main(["--input", str(nemo), "--output", str(back)])
    assert not (back / "adapter_config.json").exists()
    for name, tensor in load_file(back / "model.safetensors").items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-5, atol=1e-6)


def matrices(folder: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    folder.mkdir()
    stated = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "its/base"} | config
    (folder / "adapter_config.json").write_text(json.dumps(stated))
    named = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors")
    return folder


def pair(weight: str, out: int, columns: int, rank: int = 2) -> dict[str, torch.Tensor]:
    module = weight.removesuffix(".weight")
    return {
        f"{module}.lora_A.weight": torch.arange(float(rank * columns)).reshape(rank, columns) / 64,
        f"{module}.lora_B.weight": torch.arange(float(out * rank)).reshape(out, rank) / 32 - 1,
    }


@settings(deadline=None)
@given(data=st.data())
def test_any_cut_of_the_rows_reads_the_same_bytes(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    weight = torch.linspace(-2, 2, 7 * 6).reshape(7, 6)
    save_file({Q: weight.to(torch.bfloat16)}, folder / "model.safetensors")
    adapter = LoraAdapter(matrices(folder / "adapter", pair(Q, 7, 6)))
    stored = SafetensorsFolder(folder).rows(Q)
    wanted = data.draw(st.sampled_from([FLOAT32, BFLOAT16]))
    a, b = pair(Q, 7, 6).values()
    expected = (weight.to(torch.bfloat16).float() + 2 * b @ a).to(getattr(torch, wanted.name))
    merged = adapter.merged(Q, stored, BFLOAT16, wanted)
    assert merged is not None
    start = data.draw(st.integers(0, 6))
    stop = data.draw(st.integers(start + 1, 7))
    part = merged[0][start:stop]
    size = len(part) * part.row_bytes
    first = data.draw(st.integers(0, size - 1))
    buffer = bytearray(data.draw(st.integers(1, size - first)))
    part.read_into(first, memoryview(buffer))
    bits = expected[start:stop].contiguous().view(torch.uint8).numpy().tobytes()
    # sums of 2 products are exact here, so their order does not matter
    assert bytes(buffer) == bits[first : first + len(buffer)]


@pytest.mark.parametrize(
    ("tensors", "config", "said"),
    [
        ({}, {}, "holds no matrix"),
        (pair(Q, 96, 64), {"peft_type": "LOHA"}, "only LORA can be merged"),
        (pair(Q, 96, 64), {"use_dora": True}, "use_dora=true"),
        (pair(Q, 96, 64), {"modules_to_save": ["lm_head"]}, "modules_to_save="),
        (pair(Q, 96, 64), {"bias": "all"}, 'bias="all"'),
        (pair(Q, 96, 64), {"init_lora_weights": "pissa"}, "has changed the base weights"),
        (pair(Q, 96, 64), {"something_new": 1}, "something_new=1"),
        (pair(Q, 96, 64), {"r": 3}, "has rank 2, and adapter_config.json says 3"),
        (pair(Q, 96, 64), {"lora_alpha": "4"}, "lora_alpha of"),
        (pair(Q, 96, 64), {"rank_pattern": {".*(a+)+$": 2}}, "not a map of plain module names"),
        (pair(Q, 95, 64), {}, "adapter of another model (its/base)"),
        (pair("model.layers.9.self_attn.q_proj.weight", 96, 64), {}, "adapter of another model (its/base)"),
        ({"model.embed_tokens.lora_embedding_A": torch.zeros(2, 304)}, {}, "is no matrix of LoRA"),
        ({f"{Q.removesuffix('.weight')}.lora_A.weight": torch.zeros(2, 64)}, {}, "has only lora_A"),
        ({**pair(Q, 96, 64), f"{Q.removesuffix('.weight')}.lora_B.weight": torch.zeros(96, 3)}, {}, "do not fit"),
    ],
)
def test_what_would_not_be_their_sum_is_refused(
    hf: Path, tmp_path: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any], said: str
) -> None:
    adapter = matrices(tmp_path / "adapter", tensors, **config)
    with pytest.raises(UserError) as caught:
        HuggingFaceCheckpoint(hf, adapter=LoraAdapter(adapter))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_changed_copy_of_a_tied_embedding_is_refused(hf: Path, tmp_path: Path) -> None:
    """The copy is not converted, so that its change would be lost. Without it there is no such weight."""
    copied = shutil.copytree(hf, tmp_path / "copied")
    weights = load_file(copied / "model.safetensors")
    output = weights["model.embed_tokens.weight"].clone()
    save_file({**weights, "lm_head.weight": output}, copied / "model.safetensors", {"format": "pt"})
    adapter = matrices(tmp_path / "adapter", pair("lm_head.weight", *output.shape))
    for model in (hf, copied):
        assert open_checkpoint(model).redundant_output is (model is copied)
        with pytest.raises(UserError, match=r"changes lm_head\.weight, which the model does not have"):
            open_checkpoint(model, adapter=adapter)


def test_folders_that_are_no_adapter(hf: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no adapter_config\.json"):
        open_checkpoint(hf, adapter=hf)
    adapter = matrices(tmp_path / "adapter", pair(Q, 96, 64))
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(UserError, match="pickles are never loaded"):
        open_checkpoint(hf, adapter=adapter)
    convert_hf_to_nemo.main(["--input", str(hf), "--output", str(tmp_path / "one.nemo")])
    with pytest.raises(UserError, match="needs a Hugging Face folder"):
        open_checkpoint(tmp_path / "one.nemo", adapter=adapter)
