"""Whole runs whose engines are vLLM's, on the real library."""

from __future__ import annotations

import signal
from pathlib import Path

from s2l_nemo.records.metrics import read_metrics
from tests.distributed.models import write_qwen3
from tests.distributed.ranks import run_ranks
from tests.distributed.test_served_training import Loss, disturbed
from tests.distributed.test_training import BASE, layout
from tests.engines.vllm.real import PYTHON, needs_vllm

pytestmark = needs_vllm


def test_mixed_groups_refits_and_a_lost_server(tmp_path: Path) -> None:
    """TP 2, three steps, half of each group from either engine. The learner's server is killed in the second."""
    learner = write_qwen3(tmp_path / "learner", seed=0, layers=2, head_dim=32)
    explorer = write_qwen3(tmp_path / "explorer", seed=1, layers=2, head_dim=32)
    run = tmp_path / "run"
    overrides = [
        *BASE, *layout(2, 1, 2), "algorithm.steps=3", "algorithm.schedule.t_mix=3", "algorithm.schedule.name=constant",
        "algorithm.schedule.alpha=0.5", "validation.every=0", "engine.kind=vllm", f"engine.python={PYTHON}",
        "engine.memory_fraction=0.1", f"model.path={learner}", f"explorer.path={explorer}", f"run.dir={run}",
    ]  # fmt: skip
    losses: dict[int, list[Loss]] = {2: [("learner", signal.SIGKILL)]}
    run_ranks(disturbed, 2, overrides, losses, {})
    steps = list(read_metrics(run / "metrics.jsonl"))
    assert [step["step"] for step in steps] == [1, 2, 3]
    for step in steps:
        assert step["logprob_diff/learner"] < 1e-3  # engine and actor, after each refit
        assert step["logprob_diff/explorer"] > 1e-3
    assert steps[-1]["engine/restarts"] == 1
