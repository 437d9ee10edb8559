"""Every mistake in an input, or about an output, is one line with file, tensor and fix, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from s2l_nemo.errors import UserError
from s2l_nemo.models.checkpoints.to_nemo import Format
from tests.distributed.conversion import to_nemo
from tests.distributed.models import write_internlm2, write_qwen3
from tools import convert_hf_to_nemo, convert_nemo_to_hf

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen3(tmp_path_factory.mktemp("hf"), tied=False, shards=3)  # four files: they cannot be quite equal


@pytest.fixture(scope="module")
def nemo(hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return to_nemo(hf, tmp_path_factory.mktemp("nemo") / "nemo", Format.NEMO_DIR)


def edit_weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """Rewrites the three shards as one file after `change`."""

    def edit(folder: Path) -> None:
        weights = {name: x for file in folder.glob("*.safetensors") for name, x in load_file(file).items()}
        for file in folder.glob("model*"):
            file.unlink()
        change(weights)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return edit


def edit_json(name: str, **values: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, **values}))

    return edit


def edit_index(change: Callable[[dict[str, str]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        change(index["weight_map"])
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return edit


def cut(name: str) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size - 7)


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def rename_all_norms(weights: dict[str, torch.Tensor]) -> None:
    for layer in range(4):
        weights[f"extra.{layer}"] = weights.pop(f"model.layers.{layer}.self_attn.q_norm.weight")


def only_pickled(folder: Path) -> None:
    for file in folder.glob("model*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"x")


SHARD = "model-00002-of-00004.safetensors"
Q1 = "model.layers.1.self_attn.q_proj.weight"
HF_FAULTS: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "missing and extra tensors, all of them": (
        edit_weights(rename_all_norms),
        [f"model.layers.{layer}.self_attn.q_norm.weight" for layer in range(4)] + [f"extra.{n}" for n in range(4)],
    ),
    "missing shard": (remove(SHARD), [SHARD, "download"]),
    "path outside": (
        edit_index(lambda weights: weights.update({Q1: "../model.safetensors"})),
        ["model.safetensors.index.json", "../model.safetensors"],
    ),
    "truncated": (cut(SHARD), [SHARD, "bytes"]),
    "shape": (
        edit_weights(lambda weights: weights.update({Q1: weights[Q1][:48].clone()})),
        [Q1, "model.safetensors", "[48, 64]", "[96, 64]", "num_attention_heads x head_dim"],
    ),
    "figure of config.json": (
        edit_json("config.json", intermediate_size=80),
        ["mlp.down_proj.weight", "[64, 96]", "[64, 80]", "hidden_size, intermediate_size"],
    ),
    "mixed dtypes": (
        edit_weights(lambda weights: weights.update({Q1: weights[Q1].half()})),
        [Q1, "float16", "float32", "--dtype"],
    ),
    "another dtype than stated": (
        edit_json("config.json", torch_dtype="bfloat16"),
        ["float32", "bfloat16", "config.json", "--dtype"],
    ),
    "unsupported dtype": (
        edit_weights(lambda weights: weights.update({Q1: weights[Q1].to(torch.int8)})),
        [Q1, "I8"],
    ),
    "bias": (
        edit_weights(lambda weights: weights.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(96)})),
        ["model.layers.0.self_attn.q_proj.bias", "bias"],
    ),
    "bias in config.json": (edit_json("config.json", attention_bias=True), ["config.json", "attention_bias=True"]),
    "tied with another output layer": (
        edit_json("config.json", tie_word_embeddings=True),
        ["lm_head.weight", "model.embed_tokens.weight", "tie_word_embeddings"],
    ),
    "untied without output layer": (edit_weights(lambda weights: weights.pop("lm_head.weight")), ["lm_head.weight"]),
    "another family": (edit_json("config.json", model_type="gpt2"), ["config.json", "model_type=gpt2"]),
    "rope scaling": (edit_json("config.json", rope_scaling={"type": "longrope"}), ["config.json", "longrope"]),
    "theta": (edit_json("config.json", rope_theta=None), ["config.json", "rope_theta"]),
    "no config.json": (remove("config.json"), ["config.json"]),
    "config.json is no JSON": (lambda folder: (folder / "config.json").write_text("{"), ["config.json", "JSON"]),
    "pickled weights": (
        only_pickled,
        ["pytorch_model.bin", "safetensors"],
    ),
}


def fails(tool: Any, *arguments: object) -> str:
    with pytest.raises(UserError) as error:
        tool.main([str(argument) for argument in arguments])
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("fault", HF_FAULTS)
def test_hugging_face_faults(hf: Path, tmp_path: Path, fault: str) -> None:
    damage, named = HF_FAULTS[fault]
    source = Path(shutil.copytree(hf, tmp_path / "source"))
    damage(source)
    message = fails(convert_hf_to_nemo, "--input", source, "--output", tmp_path / "out")
    assert all(part in message for part in named), message
    assert os.listdir(tmp_path) == ["source"]


def test_a_dtype_that_was_asked_for_is_no_fault(hf: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(hf, tmp_path / "source"))
    HF_FAULTS["mixed dtypes"][0](source)
    out, back = tmp_path / "out", tmp_path / "back"
    assert convert_hf_to_nemo.main(["--input", str(source), "--output", str(out), "--dtype", "bf16"]) == 0
    assert convert_nemo_to_hf.main(["--input", str(out), "--output", str(back)]) == 0
    assert load_file(back / "model.safetensors")[Q1].dtype == torch.bfloat16
    assert json.loads((back / "config.json").read_text())["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--tp", "3"], ["--tp 3", "num_key_value_heads=2"]),
        (["--pp", "3"], ["--pp 3", "num_hidden_layers=4"]),
        (["--tp", "0"], ["--tp 0"]),
    ],
)
def test_parallel_sizes_that_do_not_divide(hf: Path, tmp_path: Path, options: list[str], named: list[str]) -> None:
    message = fails(convert_hf_to_nemo, "--input", hf, "--output", tmp_path / "out", *options)
    assert all(part in message for part in named), message
    assert not os.listdir(tmp_path)


class _Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch EXECUTED",)


def lower_layers(folder: Path) -> None:
    for name in ("huggingface/config.json", "model_config.yaml"):
        text = (folder / name).read_text()
        (folder / name).write_text(
            text.replace('"num_hidden_layers": 4', '"num_hidden_layers": 5').replace("num_layers: 4", "num_layers: 5")
        )


NEMO_FAULTS: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "truncated": (cut("model_weights/__0_0.distcp"), ["__0_0.distcp", "cut short"]),
    "missing file": (remove("model_weights/__0_0.distcp"), ["__0_0.distcp", "missing"]),
    "missing metadata": (remove("model_weights/.metadata"), [".metadata", "missing"]),
    "no checkpoint": (remove("model_weights/metadata.json"), ["model_weights/metadata.json"]),
    "hostile pickle": (
        lambda folder: (folder / "model_weights/.metadata").write_bytes(pickle.dumps(_Hostile())),
        [".metadata", "system", "refused"],
    ),
    "two configurations": (
        lambda folder: (folder / "model_config.yaml").write_text(
            (folder / "model_config.yaml").read_text().replace("rotary_base: 1000000.0", "rotary_base: 10000.0")
        ),
        ["model_config.yaml", "rotary_base=10000.0", "1000000.0"],
    ),
    "other figures": (lower_layers, ["decoder.layers", "(4, 64)", "5 layers"]),
    "hostile yaml": (
        lambda folder: (folder / "model_config.yaml").write_text(
            "a: !!python/object/apply:os.system ['touch EXECUTED']"
        ),
        ["model_config.yaml:1", "not valid YAML"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", ["folder", "tar"])
@pytest.mark.parametrize("fault", NEMO_FAULTS)
def test_nemo_faults(nemo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, form: str) -> None:
    monkeypatch.chdir(tmp_path)
    damage, named = NEMO_FAULTS[fault]
    source = Path(shutil.copytree(nemo, tmp_path / "source"))
    damage(source)
    if form == "tar":
        with tarfile.open(tmp_path / "source.nemo", "w") as archive:
            archive.add(source, ".")
        shutil.rmtree(source)
        source = tmp_path / "source.nemo"
    message = fails(convert_nemo_to_hf, "--input", source, "--output", tmp_path / "out")
    assert all(part in message for part in named), message
    assert os.listdir(tmp_path) == [source.name]


def test_a_hostile_item_is_not_run(nemo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found while the weights are read, when a part of the output is already written."""
    monkeypatch.chdir(tmp_path)
    source = Path(shutil.copytree(nemo, tmp_path / "source"))
    weights = source / "model_weights" / "__0_0.distcp"
    content = weights.read_bytes()
    place = content.rindex(b"_rebuild_tensor_v2")  # the last of the tensors
    weights.write_bytes(content[:place] + b"_rebuild_from_type" + content[place + 18 :])
    message = fails(convert_nemo_to_hf, "--input", source, "--output", tmp_path / "out")
    assert "__0_0.distcp" in message
    assert "_rebuild_from_type, refused" in message
    assert os.listdir(tmp_path) == ["source"]


def test_a_truncated_tar(hf: Path, tmp_path: Path) -> None:
    source = to_nemo(hf, tmp_path / "source.nemo", Format.NEMO)
    os.truncate(source, source.stat().st_size // 2)
    message = fails(convert_nemo_to_hf, "--input", source, "--output", tmp_path / "out")
    assert "source.nemo" in message
    assert not (tmp_path / "out").exists()


def test_a_compressed_tar(nemo: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "source.nemo", "w:gz") as archive:
        archive.add(nemo, ".")
    message = fails(convert_nemo_to_hf, "--input", tmp_path / "source.nemo", "--output", tmp_path / "out")
    assert "source.nemo" in message
    assert "unpack it" in message


def test_an_existing_output_is_untouched(hf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("mine")
    arguments = ["--input", str(hf), "--output", str(out)]
    assert "--force" in fails(convert_hf_to_nemo, *arguments)
    assert (out / "config.json").read_text() == "mine"
    assert convert_hf_to_nemo.main([*arguments, "--force"]) == 0
    assert not (out / "config.json").exists()
    assert (out / "model_config.yaml").is_file()


def test_force_replaces_only_checkpoints(hf: Path, tmp_path: Path) -> None:
    out = tmp_path / "home"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    assert "no checkpoint" in fails(convert_hf_to_nemo, "--input", hf, "--output", out, "--force")
    assert (out / "thesis.tex").is_file()


def test_input_and_output_must_not_overlap(hf: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(hf, tmp_path / "source"))
    for output in (source, source / "nemo", tmp_path):
        assert "overlap" in fails(convert_hf_to_nemo, "--input", source, "--output", output, "--force")


def test_a_full_disk_is_found_first(hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    message = fails(convert_hf_to_nemo, "--input", hf, "--output", tmp_path / "out")
    assert "free" in message
    assert not os.listdir(tmp_path)


def test_what_is_not_there(tmp_path: Path) -> None:
    assert "does not exist" in fails(convert_hf_to_nemo, "--input", tmp_path / "no", "--output", tmp_path / "out")
    (tmp_path / "source").mkdir()
    message = fails(convert_hf_to_nemo, "--input", tmp_path / "source", "--output", tmp_path / "a" / "b")
    assert "is not a folder" in message


def test_as_llama_is_for_internlm(nemo: Path, tmp_path: Path) -> None:
    message = fails(convert_nemo_to_hf, "--input", nemo, "--output", tmp_path / "out", "--as-llama")
    assert "--as-llama" in message
    assert "qwen3" in message


def test_remote_code_is_text(tmp_path: Path) -> None:
    source = write_internlm2(tmp_path / "hf")
    out = tmp_path / "nemo"
    assert convert_hf_to_nemo.main(["--input", str(source), "--output", str(out)]) == 0
    assert convert_nemo_to_hf.main(["--input", str(out), "--output", str(tmp_path / "back")]) == 0
    assert list((tmp_path / "back").glob("*.py"))  # it goes along
    assert not list(tmp_path.rglob("EXECUTED"))


SLOW = """
import sys, time
from s2l_nemo.models.formats import output
write = output.HashedFile.write
def slowly(self, data):
    write(self, data)
    print(self.path.name, flush=True)
    time.sleep(0.05)
output.HashedFile.write = slowly
sys.path.insert(0, "tools")
import convert_nemo_to_hf
from s2l_nemo.models.checkpoints.command import run_command
sys.exit(run_command(lambda: convert_nemo_to_hf.main(sys.argv[1:])))
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("existing", [False, True])
def test_an_interrupted_conversion_leaves_nothing_that_loads(
    nemo: Path, tmp_path: Path, signum: signal.Signals, existing: bool
) -> None:
    out = tmp_path / "out"
    if existing:
        out.mkdir()
        (out / "config.json").write_text("old")
    command = [sys.executable, "-c", SLOW, "--input", str(nemo), "--output", str(out), "--force"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "safetensors" not in process.stdout.readline():  # the weights have begun
        assert process.poll() is None
    time.sleep(0.2)
    process.send_signal(signum)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == (-9 if signum == signal.SIGKILL else 128 + signum)
    assert (out / "config.json").read_text() == "old" if existing else not out.exists()
    left = {path.name for path in tmp_path.iterdir()} - {"out"}
    if signum == signal.SIGKILL:
        (name,) = left
        assert name.startswith(".out.tmp-")
        from transformers import AutoModelForCausalLM

        with pytest.raises(OSError, match="no file named"):
            AutoModelForCausalLM.from_pretrained(tmp_path / name)
        arguments = ["--input", str(nemo), "--output", str(out), "--force"]
        assert convert_nemo_to_hf.main(arguments) == 0  # and the next run clears it away
        assert {path.name for path in tmp_path.iterdir()} == {"out"}
    else:
        assert not left
        assert stderr.endswith("interrupted: no output was written\n")
