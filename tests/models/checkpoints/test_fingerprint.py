"""A cheap fingerprint of weights: what it sees, and what it does not depend on."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from s2l_nemo.models.checkpoints import fingerprint
from s2l_nemo.models.checkpoints.fingerprint import read, sampled, weights_fingerprint
from s2l_nemo.models.checkpoints.open import open_checkpoint
from s2l_nemo.models.formats.rows import MemoryRows
from s2l_nemo.models.open import open_model, tokenizer_fingerprint
from tests.commands import run_here
from tests.distributed.models import write_qwen3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen3(tmp_path_factory.mktemp("model") / "qwen", layers=2)


def of(path: Path) -> str:
    return weights_fingerprint(open_checkpoint(path))


def test_the_same_weights_in_several_files_or_another_format_are_equal(folder: Path, tmp_path: Path) -> None:
    assert of(write_qwen3(tmp_path / "shards", layers=2, shards=3)) == of(folder)
    arguments = ("--input", folder, "--output", tmp_path / "model.nemo")
    assert run_here("tools/convert_hf_to_nemo.py", *arguments).returncode == 0
    assert of(tmp_path / "model.nemo") == of(folder)


def test_other_weights_and_another_type_differ(folder: Path, tmp_path: Path) -> None:
    assert of(write_qwen3(tmp_path / "seed", layers=2, seed=1)) != of(folder)
    assert of(write_qwen3(tmp_path / "type", layers=2, dtype=torch.bfloat16)) != of(folder)


def test_one_number_of_a_small_tensor_is_seen(folder: Path, tmp_path: Path) -> None:
    other = write_qwen3(tmp_path / "other", layers=2)
    tensors = load_file(other / "model.safetensors")
    tensors["model.layers.1.self_attn.v_proj.weight"][3, 5] += 1
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    assert of(other) != of(folder)


def test_pieces_reach_from_the_first_byte_to_the_last() -> None:
    pieces, piece = fingerprint.PIECES, fingerprint.PIECE
    assert sampled(0) == [(0, 0)]
    assert sampled(pieces * piece) == [(0, pieces * piece)]
    found = sampled(pieces * piece + 1)
    assert (found[0], len(found), sum(found[-1])) == ((0, piece), pieces, pieces * piece + 1)
    assert [start for start, _ in sampled(10 * pieces * piece)][:2] == [0, (10 * pieces - 1) * piece // (pieces - 1)]


@given(parts=st.lists(st.integers(0, 5), min_size=1, max_size=5), data=st.data())
def test_bytes_are_read_across_parts(parts: list[int], data: st.DataObject) -> None:
    whole = bytes(range(3 * sum(parts)))
    ends = [3 * sum(parts[:index]) for index in range(len(parts) + 1)]
    rows = tuple(MemoryRows(memoryview(bytearray(whole[a:b])), 3) for a, b in pairwise(ends))
    start = data.draw(st.integers(0, len(whole)))
    size = data.draw(st.integers(0, len(whole) - start))
    assert read(rows, start, size) == whole[start : start + size]


def test_config_and_tokenizer_count_by_value_and_not_by_who_wrote_them(folder: Path, tmp_path: Path) -> None:
    other = write_qwen3(tmp_path / "other", layers=2)
    before = open_model("model.path", str(folder))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "transformers_version": "9", "_name_or_path": "x"}))
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    (other / "tokenizer.json").write_text(json.dumps(tokenizer, indent=7))
    after = open_model("model.path", str(other))
    assert after.fingerprint() == before.fingerprint()
    assert tokenizer_fingerprint(after) == tokenizer_fingerprint(before)
    (other / "config.json").write_text(json.dumps({**config, "rope_theta": 12345.0}))
    tokenizer["normalizer"] = {"type": "Lowercase"}
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    after = open_model("model.path", str(other))
    differing = {name for name, value in after.fingerprint().items() if value != before.fingerprint()[name]}
    assert differing == {"config.json"}
    assert tokenizer_fingerprint(after)["tokenizer.json"] != tokenizer_fingerprint(before)["tokenizer.json"]
