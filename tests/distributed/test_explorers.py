"""Whole runs with several explorers, rescue, dynamic sampling and schedules that listen, interrupted and resumed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from s2l_nemo.records.metrics import read_metrics
from tests.agreement import LOGPROB_BOUND
from tests.distributed.models import write_qwen3
from tests.distributed.ranks import RanksFailed, run_ranks
from tests.distributed.test_training import BASE, layout, rollouts, train, untimed

ADAPTIVE = ["algorithm.schedule.name=adaptive", "algorithm.schedule.alpha=0.5", "algorithm.schedule.target=0.1"]
ROOT = Path(__file__).resolve().parents[2]
KINDS = {
    "two_updates": [
        "explorer.path={small}", "rollout.two_updates=true", "algorithm.schedule.name=constant",
        "model.micro_batch_tokens=512",
        "model.micro_batch_size=1000",  # not read beside the tokens, and no divisor of anything
        "algorithm.schedule.alpha=0.5", "algorithm.explorer_mini_batch=6",
    ],
    "several": [
        "explorers.small.path={small}", "explorers.hot.path={small}", "explorers.hot.temperature=1.5",
        "explorers.before.path={learner}", "explorers.before.share=2", "explorers.hot.max_response_length=3",
        "algorithm.schedule.name=constant",
    ],
    "rescue": ["explorer.path={small}", "algorithm.rescue_first=2", "algorithm.schedule.name=constant"],
    "refill": ["explorer.path={small}", "algorithm.refill_rounds=2", *ADAPTIVE],
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_interrupted_goes_on_bit_for_bit(kind: str, tmp_path: Path) -> None:
    paths = {
        "learner": write_qwen3(tmp_path / "learner", seed=0),
        "small": write_qwen3(tmp_path / "small", seed=1, hidden=32),
    }
    keys = [key.format_map(paths) for key in KINDS[kind]]
    fixed = ["validation.every=0", "algorithm.schedule.t_mix=2", "data.arithmetic.train_prompts=12"]
    family = [*BASE, f"model.path={paths['learner']}", *fixed, *keys, *layout(1, 1, 2)]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    one = run_ranks(train, 2, [*family, f"run.dir={whole}", "algorithm.steps=4"])
    for steps in (2, 4):  # `adaptive` and `constant` do not depend on the number of steps
        two = run_ranks(train, 2, [*family, f"run.dir={parts}", f"algorithm.steps={steps}"])
    assert [rank["hash"] for rank in two] == [rank["hash"] for rank in one]
    lines = [[untimed(line) for line in read_metrics(run / "metrics.jsonl")] for run in (whole, parts)]
    assert len(lines[0]) == 4
    validated = [{k: v for k, v in line.items() if not k.startswith("validation/")} for line in lines[1]]
    assert validated == [{k: v for k, v in line.items() if not k.startswith("validation/")} for line in lines[0]]
    for step in range(1, 5):
        assert rollouts(whole, step) == rollouts(parts, step)
    sources = {row.source for step in range(1, 5) for row in rollouts(whole, step)}
    assert sources == ({"small", "hot", "before"} if kind == "several" else {"explorer", "learner"})
    if kind == "several":
        first = rollouts(whole, 1)
        assert [row.source for row in first[:4]] == ["small", "hot", "before", "before"]
        assert max(len(row.token_ids) for row in first if row.source == "hot") <= 3
        assert lines[0][0]["reward/before"] is not None
        assert "explorer_weight_hash/hot" in (whole / "summary.json").read_text()


def test_a_run_from_a_store_is_the_live_run(tmp_path: Path) -> None:
    """With the live run's seed and settings: the same tokens, rewards and advantages, and so the same weights."""
    learner, small = write_qwen3(tmp_path / "learner", seed=0), write_qwen3(tmp_path / "small", seed=1, hidden=32)
    data = ["data.arithmetic.train_prompts=12", "rollout.max_response_length=12"]
    store = tmp_path / "store"
    sample = [sys.executable, "recipes/sample_explorer.py", f"model={small}", f"output={store}", "seed=1", *data]
    subprocess.run([*sample, "samples=8"], cwd=ROOT, capture_output=True, check=True, timeout=600)
    family = [*BASE, f"model.path={learner}", "validation.every=0", "algorithm.steps=4", *data, *layout(1, 1, 2)]
    live, stored, shuffled = (tmp_path / name for name in ("live", "stored", "shuffled"))
    one = run_ranks(train, 2, [*family, f"run.dir={live}", f"explorer.path={small}"])
    from_store = [*family, "explorer.source=store", f"explorer.path={store}"]
    two = run_ranks(train, 2, [*from_store, f"run.dir={stored}", "explorer.draw=stored"])
    assert [rank["hash"] for rank in two] == [rank["hash"] for rank in one]
    for step in range(1, 5):
        for row, same in zip(rollouts(live, step), rollouts(stored, step), strict=True):
            assert replace(row, logprobs=[]) == replace(same, logprobs=[])
            assert row.logprobs == pytest.approx(same.logprobs, rel=0, abs=LOGPROB_BOUND)
    run_ranks(train, 2, [*from_store, f"run.dir={shuffled}"])
    tokens = [[row.token_ids for row in rollouts(run, 1) if row.source == "explorer"] for run in (live, shuffled)]
    assert tokens[0] != tokens[1]
    subprocess.run([*sample, "samples=10"], cwd=ROOT, capture_output=True, check=True, timeout=600)
    longer = [*from_store, f"run.dir={shuffled}", "algorithm.steps=5"]
    with pytest.raises(
        RanksFailed, match=r"explorer\.path gives 10 samples of each prompt, .* set explorer\.samples=8"
    ):
        run_ranks(train, 2, longer)
    assert run_ranks(train, 2, [*longer, "explorer.samples=8"])[0]["step"] == 5
