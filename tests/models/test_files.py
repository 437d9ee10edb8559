"""Where the small files of a model are: a Hugging Face folder, a NeMo folder, a `.nemo` tar."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.config.checks import check_model_files
from s2l_nemo.config.load import load_config
from s2l_nemo.models.files import hf_files_folder, read_config_json, read_shape
from s2l_nemo.planner.plan import render_plan
from s2l_nemo.errors import UserError

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
    assert read_config_json("model.path", path) == INTERNLM2
    shape = read_shape("model.path", path)
    assert (shape.family, shape.head_dim, shape.qk_norm, shape.tied) == ("internlm2", 8, False, False)
    assert (hf_files_folder("model.path", path) / "tokenizer.json").read_text() == "{}"
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
        read_shape("model.path", str(path))
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
            read_config_json("explorer.path", str(path))


def test_only_plain_files_of_the_folder_are_unpacked(tmp_path: Path) -> None:
    config = write(tmp_path / "hf", INTERNLM2) / "config.json"
    file = tmp_path / "model.nemo"
    with tarfile.open(file, "w:") as archive:
        archive.add(config, "./huggingface/config.json")
        archive.add(config, "./huggingface/../../escaped.json")
        archive.add(config, "../huggingface/escaped.json")
        archive.add(config, "./huggingface/deeper/escaped.json")
        link = tarfile.TarInfo("./huggingface/link.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    folder = hf_files_folder("model.path", str(file))
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert not list(folder.parent.glob("escaped.json"))


def test_the_unpacked_files_go_with_the_process(models: dict[str, Path]) -> None:
    code = (
        f"from s2l_nemo.models.files import hf_files_folder as f; print(f('model.path', {str(models['nemo'])!r}))"
    )
    root = CONF.parent
    shown = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert "s2l_nemo_" in shown
    assert not Path(shown.strip()).exists()
