"""A model of any format is opened by its path: figures, small files, and what is refused."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from s2l_nemo.config.checks import check_model_files
from s2l_nemo.config.load import load_config
from s2l_nemo.errors import UserError
from s2l_nemo.models.open import open_model
from s2l_nemo.planner.plan import render_plan
from tests.character_tokenizer import character_tokenizer
from tests.distributed.models import write_internlm2, write_qwen3

CONF = Path(__file__).parents[2] / "conf"
INTERNLM2: dict[str, Any] = {
    "model_type": "internlm2",
    "auto_map": {"AutoConfig": "configuration_internlm2.InternLM2Config"},
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-5,
    "rope_scaling": {"type": "dynamic", "factor": 2.0},
    "bias": False,
    "eos_token_id": 3,
}


def write(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def as_nemo_folder(model: Path, folder: Path) -> Path:
    shutil.copytree(model, folder / "huggingface")
    (folder / "model_config.yaml").write_text("hidden_size: 32")
    return folder


def as_nemo_file(folder: Path, file: Path, mode: Any = "w:") -> Path:
    with tarfile.open(file, mode) as archive:
        archive.add(folder, ".")
    return file


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    """One model in all formats."""
    folder = write(tmp_path / "hf", INTERNLM2)
    nemo = as_nemo_folder(folder, tmp_path / "nemo")
    return {"folder": folder, "nemo-dir": nemo, "nemo": as_nemo_file(nemo, tmp_path / "model.nemo")}


@pytest.mark.parametrize("form", ["folder", "nemo-dir", "nemo"])
def test_every_format_gives_the_same_figures(models: dict[str, Path], form: str) -> None:
    path = str(models[form])
    model = open_model("model.path", path)
    shape = model.shape
    assert model.config == INTERNLM2
    assert model.is_hugging_face == (form == "folder")
    assert (shape.family, shape.head_dim, shape.qk_norm, shape.tied) == ("internlm2", 8, False, False)
    assert (model.hf_folder / "tokenizer.json").read_text() == "{}"
    plan = render_plan(load_config([f"model.path={path}", "experiment=grpo"], CONF))
    assert f"learner: {shape.parameters:,} parameters ({path})" in plan


@pytest.mark.parametrize("form", ["folder", "nemo-dir", "nemo"])
def test_learner_and_explorer_may_come_in_different_formats(models: dict[str, Path], form: str) -> None:
    check_model_files(load_config([f"model.path={models[form]}", f"explorer.path={models['folder']}"], CONF))
    check_model_files(load_config([f"model.path={models['folder']}", f"explorer.path={models[form]}"], CONF))


def test_an_internlm2_and_a_llama_are_of_one_family(models: dict[str, Path], tmp_path: Path) -> None:
    llama = {key: value for key, value in INTERNLM2.items() if key not in ("auto_map", "rope_scaling")}
    folder = write(tmp_path / "llama", llama | {"model_type": "llama"})
    check_model_files(load_config([f"model.path={models['nemo']}", f"explorer.path={folder}"], CONF))


@pytest.mark.parametrize(("learner", "explorer"), [("folder", "nemo"), ("nemo", "nemo-dir")])
def test_dynamic_rope_scaling_is_never_reached(models: dict[str, Path], learner: str, explorer: str) -> None:
    options = [f"model.path={models[learner]}", f"explorer.path={models[explorer]}"]
    check_model_files(load_config([*options, "rollout.max_response_length=192"], CONF))  # 64 + 192 = 256
    with pytest.raises(UserError, match=r"more than the 256 positions of .*: lower one of them by 1$"):
        check_model_files(load_config([*options, "rollout.max_response_length=193"], CONF))


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"rope_theta": -1}, "huggingface/config.json: rope_theta=-1"),
        ({"bias": True}, "bias=True is not supported"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling of type linear is not supported"),
        ({"num_attention_heads": 5}, "num_attention_heads=5 does not divide hidden_size=32"),
    ],
)
@pytest.mark.parametrize("form", ["nemo-dir", "nemo"])
def test_errors_name_the_checkpoint_and_not_where_it_was_unpacked(
    tmp_path: Path, form: str, change: dict[str, Any], fragment: str
) -> None:
    path = as_nemo_folder(write(tmp_path / "hf", INTERNLM2 | change), tmp_path / "nemo")
    if form == "nemo":
        path = as_nemo_file(path, tmp_path / "model.nemo")
    with pytest.raises(UserError) as error:
        open_model("model.path", str(path))
    assert str(error.value).startswith(str(path))
    assert fragment in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_model(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "model_config.yaml").touch()
    cases = {
        tmp_path / "absent.nemo": "is not a folder: run tools/make_tiny_family.py",
        bare: "has no huggingface/config.json",
        as_nemo_file(bare, tmp_path / "bare.nemo"): "has no huggingface/config.json",
        as_nemo_file(bare, tmp_path / "packed.nemo", "w:gz"): "is not an uncompressed tar",
        CONF / "paper.yaml": "has no huggingface/config.json",
    }
    for path, message in cases.items():
        with pytest.raises(UserError, match=f"^explorer.path={path} {message}"):
            open_model("explorer.path", str(path))


@pytest.mark.parametrize("form", ["folder", "nemo-dir", "nemo"])
def test_every_format_carries_its_tokenizer(tmp_path: Path, form: str) -> None:
    path = write(tmp_path / "hf", INTERNLM2)
    character_tokenizer().save_pretrained(path)
    (path / "generation_config.json").write_text('{"eos_token_id": 3}')
    if form != "folder":
        path = as_nemo_folder(path, tmp_path / "nemo")
    if form == "nemo":
        path = as_nemo_file(path, tmp_path / "model.nemo")
    model = open_model("model.path", str(path))
    assert model.tokenizer.get_vocab() == character_tokenizer().get_vocab()
    assert model.stop_token_ids == (3, model.tokenizer.convert_tokens_to_ids("|"))


def test_weights_and_tokenizer_are_opened_once(tmp_path: Path) -> None:
    folder = write_internlm2(tmp_path / "hf", layers=1)
    model = open_model("model.path", str(folder))
    checkpoint, tokenizer = model.checkpoint, model.tokenizer
    for file in folder.iterdir():
        file.unlink()  # whoever opened it again would fail
    assert model.checkpoint is checkpoint
    assert model.tokenizer is tokenizer
    assert checkpoint.shape == model.shape
    assert model.stop_token_ids


def test_f12_faults_of_the_weights_show_when_they_are_asked_for(models: dict[str, Path]) -> None:
    model = open_model("model.path", str(models["folder"]))
    with pytest.raises(UserError, match="safetensors"):
        _ = model.checkpoint


def damaged(folder: Path, how: str) -> Path:
    file = folder / "model.safetensors"
    content = file.read_bytes()
    match how:
        case "pointer of LFS":
            file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
        case "no weights":
            file.unlink()
        case ".bin alone":
            file.rename(folder / "pytorch_model.bin")
        case "cut file":
            file.write_bytes(content[:-100])
        case _:
            file.rename(folder / "model-00001-of-00002.safetensors")
            names = load_file(folder / "model-00001-of-00002.safetensors")
            index = dict.fromkeys(names, "model-00001-of-00002.safetensors") | {"x": "model-00002-of-00002.safetensors"}
            (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


@pytest.mark.parametrize("how", ["pointer of LFS", "no weights", ".bin alone", "cut file", "missing shard"])
@pytest.mark.parametrize("key", ["model.path", "explorer.path"])
def test_f12_a_damaged_model_is_one_line_whoever_it_is(tmp_path: Path, key: str, how: str) -> None:
    folder = damaged(write_qwen3(tmp_path / "model", layers=1), how)
    with pytest.raises(UserError) as caught:
        _ = open_model(key, str(folder)).checkpoint
    assert str(folder) in str(caught.value)
