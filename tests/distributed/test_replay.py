"""Runs without sampling: from the recorded rollouts of a run, and from a store that the learner has filled."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.records.metrics import read_metrics
from tests.distributed.models import write_qwen3
from tests.distributed.ranks import run_ranks
from tests.distributed.test_training import BASE, layout, rollouts, train, untimed

ROOT = Path(__file__).resolve().parents[2]
STEPS = 4
SAMPLED = ("total/flops", "total/flops_explorer", "total/flops_learner")  # what a replay does not compute
KINDS = {
    "mixed": ["algorithm.importance=behavior", "algorithm.schedule.name=constant", "algorithm.schedule.alpha=0.5"],
    "rescue": [
        "algorithm.rescue_first=2", "algorithm.schedule.name=adaptive", "algorithm.schedule.alpha=0.5",
        "algorithm.optimizer_passes=2",
    ],
    "two_updates": [
        "rollout.two_updates=true", "algorithm.schedule.name=constant", "algorithm.schedule.alpha=0.5",
        "model.micro_batch_tokens=512",
    ],
}  # fmt: skip


def command(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def lines(run: Path) -> list[dict[str, Any]]:
    """Metrics without seconds, and without what a replay does not compute."""
    return [
        {name: value for name, value in untimed(line).items() if name not in SAMPLED}
        for line in read_metrics(run / "metrics.jsonl")
    ]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "learner": write_qwen3(folder / "learner", seed=0),
        "small": write_qwen3(folder / "small", seed=1, hidden=32),
    }


def keys(models: dict[str, Path], *more: str) -> list[str]:
    fixed = ["validation.every=0", "data.arithmetic.train_prompts=12", "algorithm.schedule.t_mix=2"]
    return [*BASE, f"model.path={models['learner']}", *fixed, *more, *layout(1, 1, 2)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_replay_of_a_run_is_the_run(kind: str, models: dict[str, Path], tmp_path: Path) -> None:
    """Bit for bit: tokens, log-probs, metrics and weights. It is interrupted and resumed on the way."""
    family = keys(models, *KINDS[kind])
    live, replay, bare = (tmp_path / name for name in ("live", "replay", "bare"))
    whole = f"algorithm.steps={STEPS}"
    one = run_ranks(train, 2, [*family, f"explorer.path={models['small']}", f"run.dir={live}", whole])
    stores = {source: tmp_path / source for source in ("learner", "explorer")}
    for source, store in stores.items():
        said = command("tools/store_of_run.py", f"run={live}", f"source={source}", f"output={store}")
        assert f"by {source}, steps 1 to {STEPS} of {live}" in said
    stored = [
        *family, f"rollout.replay={stores['learner']}", "explorer.source=store", f"explorer.path={stores['explorer']}",
        "explorer.draw=stored",
    ]  # fmt: skip
    for steps in (2, STEPS):
        two = run_ranks(train, 2, [*stored, f"run.dir={replay}", f"algorithm.steps={steps}"])
    assert [rank["hash"] for rank in two] == [rank["hash"] for rank in one]
    run_ranks(train, 2, [*stored, f"run.dir={bare}", whole, "validation.prompts=0"])
    of_live, of_replay, of_bare = lines(live), lines(replay), lines(bare)
    assert len(of_live) == STEPS
    assert of_replay[-1] == of_live[-1]  # with pass@1 after the last step
    for mine, same, without in zip(of_live, of_replay, of_bare, strict=True):
        training = {name: value for name, value in mine.items() if not name.startswith("validation/")}
        assert {name: value for name, value in same.items() if name in training} == training
        assert {name: value for name, value in without.items() if name in training} == training
    for step in range(1, STEPS + 1):
        assert rollouts(live, step) == rollouts(replay, step) == rollouts(bare, step)
    last = read_metrics(replay / "metrics.jsonl")[-1]
    assert (last["total/flops_learner"], last["total/flops_explorer"]) == (0, 0)
    assert last["total/flops"] == last["total/flops_trained"] > 0
    assert not (bare / "validation").exists()


def test_a_learner_may_train_on_what_it_has_sampled_ahead(models: dict[str, Path], tmp_path: Path) -> None:
    """Plain GRPO from a store of recipes/sample_explorer.py: offline, so its tokens are no longer the learner's own."""
    store, run = tmp_path / "store", tmp_path / "run"
    data = ["data.arithmetic.train_prompts=12", "rollout.max_response_length=12"]
    command("recipes/sample_explorer.py", f"model={models['learner']}", f"output={store}", "samples=8", *data)
    grpo = ["explorer.path=null", "algorithm.schedule.name=none", "algorithm.importance=masked"]
    arguments = keys(models, *grpo, f"rollout.replay={store}", f"run.dir={run}", f"algorithm.steps={STEPS}")
    run_ranks(train, 2, arguments)
    metrics = read_metrics(run / "metrics.jsonl")
    assert len(metrics) == STEPS
    first, last = (metrics[step]["sampler_kl/learner"] for step in (0, -1))
    assert abs(first) < 1e-4
    assert abs(last) > 10 * abs(first)
    answers = [(row.prompt_id, tuple(row.token_ids)) for step in range(1, STEPS + 1) for row in rollouts(run, step)]
    assert len(answers) == STEPS * 16
    assert metrics[-1]["validation/pass@1"] is not None
