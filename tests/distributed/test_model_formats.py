"""Runs that start from every format that `model.path` and `explorer.path` accept, and that export Hugging Face."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.config.checks import check_model_files
from s2l_nemo.config.load import load_config
from s2l_nemo.records.metrics import read_metrics
from tests.distributed.conversion import to_hf, to_nemo
from tests.distributed.models import write_internlm2, write_qwen3
from tests.distributed.ranks import run_ranks
from tests.distributed.test_training import BASE, CONF, layout, train, untimed
from tests.models.test_sentencepiece import give_tokenizer_model, train_sentencepiece

STEPS = ["algorithm.steps=2", "algorithm.schedule.name=constant", "algorithm.schedule.alpha=0.5",
         "algorithm.schedule.t_mix=null", "run.export_hf=true"]  # fmt: skip


def run(
    folder: Path, learner: Path, explorer: Path, *options: str, tp: int = 2, pp: int = 1
) -> tuple[list[dict[str, Any]], dict[str, bytes], dict[str, Any]]:
    """Metrics, exported files and rank 0's result of two steps."""
    overrides = [*BASE, *STEPS, f"model.path={learner}", f"explorer.path={explorer}", f"run.dir={folder}", *options]
    overrides += layout(tp, pp, 2)
    check_model_files(load_config(overrides, CONF))
    result = run_ranks(train, 2, overrides)[0]
    metrics = [untimed(line) for line in read_metrics(folder / "metrics.jsonl")]
    assert [line["group/explorer"] for line in metrics] == [2, 2]
    for line in metrics:
        assert line["logprob_diff/learner"] < 1e-5  # engine and actor agree, before and after a refit
        assert line["logprob_diff/explorer"] > 0.01
        assert line["grad_norm"] > 0
    return metrics, {path.name: path.read_bytes() for path in (folder / "hf").iterdir()}, result


@pytest.mark.parametrize("model", ["qwen3", "internlm2"])
def test_nemo_checkpoints_train_bit_for_bit_as_the_hugging_face_folder(tmp_path: Path, model: str) -> None:
    write = write_qwen3 if model == "qwen3" else write_internlm2
    learner, explorer = write(tmp_path / "learner", seed=0), write(tmp_path / "explorer", seed=1, hidden=32)
    expected = run(tmp_path / "run", learner, explorer)
    for name in ("learner", "explorer.nemo"), ("learner.nemo", "explorer"):
        mine, theirs = (to_nemo(tmp_path / Path(part).stem, tmp_path / f"nemo-{part}") for part in name)
        again = run(tmp_path / f"run-{name[0]}", mine, theirs)
        assert again[0] == expected[0]
        assert again[1] == expected[1]
        assert again[2]["explorer"] == expected[2]["explorer"]
    assert not list(tmp_path.rglob("EXECUTED"))


def test_internlm2_learns_from_a_llama_and_at_any_layout(tmp_path: Path) -> None:
    learner, explorer = write_internlm2(tmp_path / "learner"), write_internlm2(tmp_path / "explorer", seed=1, hidden=32)
    expected, _, result = run(tmp_path / "run", learner, explorer)
    llama = to_hf(explorer, tmp_path / "llama", engine_form=True)
    metrics, files, again = run(tmp_path / "pp", learner, llama, pp=2, tp=1)
    assert again["explorer"] == result["explorer"]
    for mine, theirs in zip(metrics, expected, strict=True):
        for key, value in theirs.items():
            assert mine[key] == (value if value is None else pytest.approx(value, rel=1e-4, abs=1e-5)), key
    assert b"attention.wqkv.weight" in files["model.safetensors"]  # under its own names
    assert not list(tmp_path.rglob("EXECUTED"))


def test_internlm2_trains_with_a_tokenizer_model_only(tmp_path: Path) -> None:
    """As on the hub, where its tokenizer is a SentencePiece model that remote code reads; from a `.nemo`, too."""
    learner, explorer = write_internlm2(tmp_path / "learner"), write_internlm2(tmp_path / "explorer", seed=1, hidden=32)
    for folder in (learner, explorer):
        give_tokenizer_model(folder, train_sentencepiece())
    to_nemo(learner, tmp_path / "learner.nemo")
    expected, files, _ = run(tmp_path / "run", learner, explorer)
    again, _, _ = run(tmp_path / "again", tmp_path / "learner.nemo", explorer)
    assert again == expected
    assert files["tokenizer.model"] == train_sentencepiece()
    assert not list(tmp_path.rglob("EXECUTED"))


def test_a_run_goes_on_from_what_another_left(tmp_path: Path) -> None:
    learner, explorer = write_qwen3(tmp_path / "learner"), write_qwen3(tmp_path / "explorer", seed=1, hidden=32)
    _, files, _ = run(tmp_path / "first", learner, explorer, "run.save_nemo=true")
    metrics, _, _ = run(tmp_path / "nemo", tmp_path / "first" / "final.nemo", explorer)
    from_hf, _, _ = run(tmp_path / "hf", tmp_path / "first" / "hf", explorer)
    assert metrics == from_hf
    assert files["model.safetensors"] != (learner / "model.safetensors").read_bytes()


def test_a_finished_run_exports_when_it_is_asked_later(tmp_path: Path) -> None:
    learner, explorer = write_qwen3(tmp_path / "learner"), write_qwen3(tmp_path / "explorer", seed=1, hidden=32)
    _, expected, _ = run(tmp_path / "run", learner, explorer)
    shutil.rmtree(tmp_path / "run" / "hf")
    _, files, _ = run(tmp_path / "run", learner, explorer, tp=1, pp=2)
    assert files == expected
