"""A run goes on with other weights and data than it began with, because `run.allow_changed` says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from s2l_nemo.records.checkpoints import latest_checkpoint
from tests.distributed.models import write_qwen3
from tests.distributed.ranks import run_ranks
from tests.distributed.test_training import BASE, layout, train

pytestmark = pytest.mark.nemo


def write_rows(path: Path, plus: int) -> None:
    rows = [{"prompt": f"What is {row} + 1?", "answer": str(row + 1 + plus)} for row in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_what_is_allowed_is_recorded_and_validations_are_not_compared(tmp_path: Path) -> None:
    learner = write_qwen3(tmp_path / "learner", layers=2)
    explorer = write_qwen3(tmp_path / "explorer", layers=2, hidden=32, seed=1)
    write_rows(tmp_path / "train.jsonl", 0)
    write_rows(tmp_path / "valid.jsonl", 0)
    arguments = [
        *BASE, *layout(1, 1, 1), f"run.dir={tmp_path / 'run'}", f"model.path={learner}", f"explorer.path={explorer}",
        f"data.path={tmp_path / 'train.jsonl'}", f"data.valid_path={tmp_path / 'valid.jsonl'}",
        "algorithm.schedule.t_mix=1", "validation.prompts=2", "validation.samples=1",
    ]  # fmt: skip
    run_ranks(train, 1, [*arguments, "algorithm.steps=1"])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["pass@1/difference"] is not None

    for folder, seed, hidden in ((learner, 5, 64), (explorer, 6, 32)):
        write_qwen3(folder, layers=2, hidden=hidden, seed=seed)
    write_rows(tmp_path / "train.jsonl", 1)
    write_rows(tmp_path / "valid.jsonl", 1)
    allowed = "run.allow_changed=[learner,explorer,validation_data,training_data]"
    run_ranks(train, 1, [*arguments, "algorithm.steps=2", allowed])

    changed = json.loads((tmp_path / "run" / "identity.json").read_text())["changed"]
    assert {(one["part"], one["step"]) for one in changed} == {
        ("learner", 1), ("training_data", 1), ("validation_data", 1), ("explorer", 1),
    }  # fmt: skip
    newest = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert newest is not None
    assert newest.step == 2
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["steps"], summary["pass@1/difference"]) == (2, None)
    assert summary["pass@1/before"] is not None
