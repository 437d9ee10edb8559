"""The three conversion commands as users run them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.commands import Done, run_here, run_process
from tests.distributed.models import write_internlm2, write_qwen3


def run(tool: str, *arguments: object) -> Done:
    return run_here(f"tools/{tool}.py", *arguments)


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tied, with the redundant output layer of the hub's Qwen3-0.6B."""
    source = write_qwen3(tmp_path_factory.mktemp("tools") / "hf", dtype=torch.bfloat16)
    weights = load_file(source / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    return source


@pytest.fixture(scope="module")
def nemo(hf: Path) -> Path:
    out = hf.parent / "model.nemo"
    done = run_process("tools/convert_hf_to_nemo.py", "--input", hf, "--output", out)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"wrote \S+: \d+ files, [\d.]+ \w+ in [\d.]+ s \([\d.]+ \w+/s\)\n", done.stdout)
    assert done.stderr == ""
    return out


def test_there_and_back(hf: Path, nemo: Path, tmp_path: Path) -> None:
    back = tmp_path / "back"
    shards = ("--max-shard-size", "200KB")
    assert run_process("tools/convert_nemo_to_hf.py", "--input", nemo, "--output", back, *shards).returncode == 0
    assert len(list(back.glob("*.safetensors"))) > 1
    weights = {name: x for file in back.glob("*.safetensors") for name, x in load_file(file).items()}
    original = load_file(hf / "model.safetensors")
    assert sorted(weights) == sorted(original)
    assert "lm_head.weight" in weights
    assert all(torch.equal(weights[name], x) for name, x in original.items())
    for one, other in ((hf, nemo), (nemo, back), (hf, back)):
        done = run_process("tools/verify_checkpoint.py", one, other)
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("the same weights, bit for bit\n")


def test_differences_are_listed(nemo: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert run("convert_nemo_to_hf", "--input", nemo, "--output", other).returncode == 0
    file = other / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.2.self_attn.k_proj.weight"][5, 7] += 1
    save_file(weights, file, {"format": "pt"})
    (other / "tokenizer.json").write_text("{}")
    done = run("verify_checkpoint", nemo, other)
    assert done.returncode == 1
    text = " ".join(done.stdout.split())
    assert "1 of 12,288 elements differ" in text
    assert "layer 2: self_attention.linear_qkv.weight" in text
    assert "model.safetensors" in text  # its hash
    assert "tokenizer.json" in text


def test_a_flipped_bit_of_a_tar_is_found_by_its_manifest(nemo: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.nemo"
    content = bytearray(nemo.read_bytes())
    content[-20_000] ^= 1  # behind the weights: no tensor differs
    copy.write_bytes(content)
    manifest = (nemo.parent / "model.nemo.sha256").read_text()
    (tmp_path / "copy.nemo.sha256").write_text(manifest.replace("model.nemo", "copy.nemo"))
    done = run("verify_checkpoint", nemo, copy)
    assert done.returncode in (1, 2)
    assert "copy.nemo" in done.stdout + done.stderr
    assert "the same weights" not in done.stdout


def test_two_models(nemo: Path, tmp_path: Path) -> None:
    done = run("verify_checkpoint", nemo, write_internlm2(tmp_path / "other"))
    assert done.returncode == 1
    assert "family" in done.stdout


@pytest.mark.parametrize("tool", ["convert_hf_to_nemo", "convert_nemo_to_hf", "verify_checkpoint"])
def test_mistakes_are_one_line(tool: str, tmp_path: Path) -> None:
    paths = [tmp_path / "no", tmp_path / "nor"]
    arguments = paths if tool == "verify_checkpoint" else ["--input", paths[0], "--output", paths[1]]
    done = run(tool, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_sizes() -> None:
    done = run("convert_nemo_to_hf", "--input", "a", "--output", "b", "--max-shard-size", "huge")
    assert done.returncode == 2
    assert "'huge' is no size" in done.stderr
