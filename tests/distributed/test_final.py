"""What a run leaves: `.nemo` and Hugging Face folder of a trained actor, the same numbers and the same bytes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from s2l_nemo.errors import UserError
from tests.distributed.conversion import to_hf
from tests.distributed.models import fixed_batch, write_internlm2, write_qwen3
from tests.distributed.ranks import RanksFailed, run_ranks
from tests.distributed.test_layouts import build, hugging_face_logprobs, own_rows, two_updates


def train_and_save(folder: Path, tp: int, pp: int, out: Path) -> dict[str, Any]:
    actor = build(folder, tp, pp)
    two_updates(actor)
    actor.save_hugging_face(out / "hf")
    actor.save_nemo(out / "final.nemo")
    batch = own_rows(actor, fixed_batch())
    actor.prepare_for_inference()
    return {"batch": batch, "logprobs": actor.infer(batch, 0.8)[0]}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write(kind: str, folder: Path) -> Path:
    if kind == "internlm2":
        return write_internlm2(folder)
    write_qwen3(folder, tied=kind != "untied")
    if kind == "redundant":
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("kind", "tp", "pp"), [("tied", 2, 1), ("redundant", 1, 2), ("untied", 1, 2), ("internlm2", 2, 1)]
)
def test_live_export_equals_offline_export_and_the_actor(tmp_path: Path, kind: str, tp: int, pp: int) -> None:
    from transformers import AutoModelForCausalLM

    folder = write(kind, tmp_path / "model")
    trained = run_ranks(train_and_save, 2, folder, tp, pp, tmp_path)[0]
    live = contents(tmp_path / "hf")
    assert live == contents(to_hf(tmp_path / "final.nemo", tmp_path / "offline"))
    assert live["model.safetensors"] != (folder / "model.safetensors").read_bytes()  # it was trained
    assert {name for name in live if name != "SHA256SUMS"} == set(contents(folder))
    assert live["tokenizer.json"] == (folder / "tokenizer.json").read_bytes()
    assert (b'"lm_head.weight"' in live["model.safetensors"]) == (kind in ("untied", "redundant"))
    readable = tmp_path / "hf"
    if kind == "internlm2":  # transformers knows it as the Llama that it equals
        readable = tmp_path / "llama"
        to_hf(tmp_path / "final.nemo", readable, engine_form=True)
    model = AutoModelForCausalLM.from_pretrained(readable, trust_remote_code=False).eval()
    expected_BS, _ = hugging_face_logprobs(model, trained["batch"])
    assert (trained["logprobs"] - expected_BS).abs().max() < 1e-5
    assert not (folder / "EXECUTED").exists()


def save_where_it_cannot(folder: Path, out: Path, size_limit: int) -> dict[str, Any]:
    """Rank 0 fails before the first tensor, or in the midst of them; afterwards all ranks still work together."""
    from s2l_nemo.models.formats import output

    def full(descriptor: int, data: Any, offset: int) -> int:
        nonlocal size_limit
        size_limit -= len(data)
        if size_limit < 0:
            raise OSError(28, "No space left on device")
        return real(descriptor, data, offset)

    actor = build(folder, 2, 1)
    real, output.os.pwrite = os.pwrite, full  # type: ignore[attr-defined]
    try:
        actor.save_hugging_face(out)
    except UserError as error:
        message = str(error)
    output.os.pwrite = real  # type: ignore[attr-defined]
    return {"message": message, "sum": actor.sum_over_replicas({"one": 1.0})["one"]}


@pytest.mark.parametrize(
    ("name", "limit", "message"),
    [("absent/hf", 10**9, "is not a folder"), ("hf", 100_000, "hf cannot be written (No space left on device)")],
)
def test_a_failed_export_leaves_nothing_and_hangs_no_rank(tmp_path: Path, name: str, limit: int, message: str) -> None:
    folder = write_qwen3(tmp_path / "model")
    results = run_ranks(save_where_it_cannot, 2, folder, tmp_path / name, limit)
    assert results[0] == results[1]
    assert message in results[0]["message"]
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def restore_far_from_home(nemo: Path) -> dict[str, Any]:
    """NeMo-Aligner's own function, where the model that was trained is not at hand."""
    from nemo_aligner.utils.utils import load_from_nemo

    from s2l_nemo.actor.actor import S2LActor

    actor = build(nemo, 2, 1)
    actor.cfg.tokenizer.type = "no/such/folder"
    restored = load_from_nemo(S2LActor, actor.cfg, actor.trainer, strict=True, restore_path=str(nemo))
    mine, theirs = actor.parameters_by_name(), restored.parameters_by_name()
    return {
        "text": restored.tokenizer.ids_to_text(restored.tokenizer.text_to_ids("1+2=3")),
        "equal": [torch.equal(mine[name], theirs[name]) for name in mine],
    }


@pytest.mark.parametrize("kind", ["tied", "internlm2"])
def test_a_nemo_file_is_all_that_is_needed(tmp_path: Path, kind: str) -> None:
    folder = write(kind, tmp_path / "model")
    run_ranks(train_and_save, 2, folder, 1, 2, tmp_path)
    folder.rename(tmp_path / "moved")
    for result in run_ranks(restore_far_from_home, 2, tmp_path / "final.nemo"):
        assert result["text"] == "1+2=3"
        assert result["equal"]
        assert all(result["equal"])
    with pytest.raises(RanksFailed):  # the fixture works: without the packed files there is no tokenizer
        run_ranks(build, 1, folder, 1, 1)
