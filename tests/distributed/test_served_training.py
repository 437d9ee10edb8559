"""Whole runs whose engines are server processes: what they share with embedded ones, and what a lost server does."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.records.metrics import read_metrics
from tests.agreement import LOGPROB_BOUND
from tests.distributed.models import write_qwen3
from tests.distributed.ranks import RanksFailed, run_ranks
from tests.distributed.test_training import BASE, layout, rollouts, train, untimed

DOUBLES = Path(__file__).resolve().parents[1] / "doubles"
SHORT = ["algorithm.steps=3", "algorithm.schedule.t_mix=3", "validation.every=0"]
SERVERS = ["engine.kind=server", "engine.startup_s=600", "engine.request_s=600"]
SERVED_ONLY = ("refit/", "engine/")
FROM_LOGPROBS = "logprob_diff/"  # metrics of the engine's log-probs, which do not reach the loss in these runs


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("family")
    learner = write_qwen3(folder / "learner", seed=0)
    explorer = write_qwen3(folder / "explorer", seed=1, hidden=32)
    return [*BASE, *SHORT, f"model.path={learner}", f"explorer.path={explorer}"]


@pytest.fixture(scope="module")
def embedded(family: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps with engines in the trainer's process, TP 2."""
    run = tmp_path_factory.mktemp("embedded") / "run"
    run_ranks(train, 2, [*family, f"run.dir={run}", *layout(2, 1, 2)])
    return run


def disturbed(overrides: list[str], role: str, signum: int, step: int, environment: dict[str, str]) -> Any:
    """A run in which a server gets a signal just before this step samples, or, `refit`, before it is refitted."""
    from s2l_nemo.trainer import setup

    os.environ.update(environment)
    make = setup.make_rollouts

    def make_and_disturb(*args: Any) -> Any:
        made = make(*args)
        calls = iter(range(1, 100))
        name = "refit" if role == "refit" else "sample"
        engine: Any = made.explorer if role == "explorer" else made.learner
        real = getattr(made, name)

        def call(*inner: Any) -> Any:
            # both are called once before the first step
            if next(calls) == step + 1 and hasattr(engine, "_connection"):
                os.killpg(engine._connection._process._process.pid, signum)
            return real(*inner)

        setattr(made, name, call)
        return made

    pytest.MonkeyPatch().setattr(setup, "make_rollouts", make_and_disturb)
    return train(overrides)


def assert_same_run(one: Path, other: Path) -> None:
    """The same tokens and rewards, and so the same updates. The engine's log-probs agree within a bound."""
    pairs = zip(read_metrics(one / "metrics.jsonl"), read_metrics(other / "metrics.jsonl"), strict=True)
    for mine, theirs in pairs:
        for key in untimed(mine).keys() | untimed(theirs).keys():
            if key.startswith(FROM_LOGPROBS) and mine[key] is not None:
                assert mine[key] == pytest.approx(theirs[key], rel=0, abs=LOGPROB_BOUND), key
            elif not key.startswith(SERVED_ONLY):
                assert mine[key] == theirs[key], key
    for step in (1, 2, 3):
        for row, same in zip(rollouts(one, step), rollouts(other, step), strict=True):
            assert replace(row, logprobs=[]) == replace(same, logprobs=[])
            assert row.logprobs == pytest.approx(same.logprobs, rel=0, abs=LOGPROB_BOUND)


@pytest.mark.parametrize("replicas", [1, 2])
def test_servers_sample_and_train_as_embedded_engines_do(
    family: list[str], embedded: Path, tmp_path: Path, replicas: int
) -> None:
    run = tmp_path / "run"
    options = [*SERVERS, f"engine.replicas_per_node={replicas}", f"run.dir={run}"]
    run_ranks(train_served, 2, [*family, *options, *layout(2, 1, 2)])
    assert_same_run(run, embedded)
    for line in read_metrics(run / "metrics.jsonl"):
        assert line["refit/bytes"] > 0
        assert line["engine/restarts"] == 0
    assert {path.name for path in (run / "engines").iterdir()} == {
        f"{role}_rank{rank}.log" for role in ("explorer", "learner") for rank in range(replicas)
    }


def train_served(overrides: list[str]) -> Any:
    return disturbed(overrides, "nobody", 0, 0, {})


@pytest.mark.parametrize(
    ("role", "signum"),
    [
        ("explorer", signal.SIGKILL),
        ("explorer", signal.SIGSTOP),
        ("learner", signal.SIGKILL),
        ("refit", signal.SIGKILL),
    ],
)
def test_a_lost_server_changes_neither_samples_nor_updates(
    family: list[str], embedded: Path, tmp_path: Path, role: str, signum: int
) -> None:
    run = tmp_path / "run"
    deadline = 20 if signum == signal.SIGSTOP else 600  # on a busy machine a healthy server may take seconds
    overrides = [
        *family,
        *SERVERS,
        f"engine.request_s={deadline}",
        f"engine.update_s={deadline}",
        f"run.dir={run}",
        *layout(2, 1, 2),
    ]
    run_ranks(disturbed, 2, overrides, role, signum, 2, {})
    assert_same_run(run, embedded)
    assert read_metrics(run / "metrics.jsonl")[-1]["engine/restarts"] == 1


def test_a_server_lost_too_often_ends_the_run_with_the_last_checkpoint_good(
    family: list[str], embedded: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    overrides = [*family, *SERVERS, f"run.dir={run}", *layout(2, 1, 2)]
    with pytest.raises(RanksFailed, match=r"engine\.max_restarts=0"):
        run_ranks(disturbed, 2, [*overrides, "engine.max_restarts=0"], "learner", signal.SIGKILL, 2, {})
    assert (run / "checkpoints" / "step_000001").is_dir()
    run_ranks(train_served, 2, overrides)
    assert_same_run(run, embedded)


def test_the_whole_loop_runs_through_the_double_of_tensorrt_llm(
    family: list[str], embedded: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = ["engine.kind=tensorrt_llm", "engine.startup_s=600", "engine.request_s=600", "run.save_nemo=false"]
    overrides = [*family, *options, f"run.dir={run}", *layout(2, 1, 2)]
    run_ranks(disturbed, 2, overrides, "nobody", 0, 0, {"PYTHONPATH": str(DOUBLES)})
    mixed = {row.source for step in (1, 2, 3) for row in rollouts(run, step)}
    assert mixed == {"explorer", "learner"}
    assert [row.token_ids for row in rollouts(run, 1)] == [row.token_ids for row in rollouts(embedded, 1)]
    for line in read_metrics(run / "metrics.jsonl"):
        assert line["logprob_diff/learner"] is None or line["logprob_diff/learner"] < 1e-5
