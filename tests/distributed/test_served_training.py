"""Whole runs whose engines are server processes: what they share with embedded ones, and what a lost server does."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Sequence
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
STEPS = (1, 2, 3, 4, 5)
SHORT = ["algorithm.steps=5", "algorithm.schedule.t_mix=5", "validation.every=0"]
SERVERS = ["engine.kind=server", "engine.startup_s=600", "engine.request_s=600"]
SERVED_ONLY = ("refit/", "engine/")
FROM_LOGPROBS = ("logprob_diff/", "sample_size/", "sampler_kl/")  # figures that do not reach the loss of these runs


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("family")
    learner = write_qwen3(folder / "learner", seed=0)
    explorer = write_qwen3(folder / "explorer", seed=1, hidden=32)
    return [*BASE, *SHORT, f"model.path={learner}", f"explorer.path={explorer}"]


@pytest.fixture(scope="module")
def embedded(family: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five steps with engines in the trainer's process, TP 2."""
    run = tmp_path_factory.mktemp("embedded") / "run"
    run_ranks(train, 2, [*family, f"run.dir={run}", *layout(2, 1, 2)])
    return run


# Which server gets which signal. `refit` stands for the learner when it is to be refitted. `learner@1` is that of rank
# 1; without a rank the servers of all ranks are meant.
Loss = tuple[str, int]


def disturbed(overrides: list[str], losses: dict[int, list[Loss]], environment: dict[str, str]) -> Any:
    """A run in which servers get a signal just before a step samples, or just before the refit after it.

    Returns also the restarts of the rank's engines, (explorer, learner).
    """
    from s2l_nemo.trainer import setup

    os.environ.update(environment)
    make, kept = setup.make_rollouts, []

    def make_and_disturb(*args: Any) -> Any:
        made = make(*args)
        kept.append(made)
        disturb(made, "sample", {"explorer": made.explorers[1], "learner": made.learner}, losses)
        disturb(made, "refit", {"refit": made.learner}, losses)
        return made

    pytest.MonkeyPatch().setattr(setup, "make_rollouts", make_and_disturb)
    return train(overrides) | {"restarts": tuple(engine.restarts for engine in kept[0]._engines())}


def disturb(rollouts: Any, name: str, engines: dict[str, Any], losses: dict[int, list[Loss]]) -> None:
    """Makes a method of the rollouts send the signals of its step first. It is called once before the first step."""
    real, steps = getattr(rollouts, name), itertools.count()

    def call(*inner: Any) -> Any:
        for name, signum in losses.get(next(steps), []):
            role, _, rank = name.partition("@")
            if rank in ("", os.environ["RANK"]) and hasattr(engines.get(role), "_connection"):
                os.killpg(engines[role]._connection._process._process.pid, signum)
        return real(*inner)

    setattr(rollouts, name, call)


def assert_same_run(one: Path, other: Path, steps: Sequence[int] = STEPS) -> None:
    """The same tokens and rewards, and so the same updates. The engine's log-probs agree within a bound."""
    pairs = zip(read_metrics(one / "metrics.jsonl"), read_metrics(other / "metrics.jsonl"), strict=True)
    for mine, theirs in pairs:
        for key in untimed(mine).keys() | untimed(theirs).keys():
            if key.startswith(FROM_LOGPROBS) and mine[key] is not None:
                assert mine[key] == pytest.approx(theirs[key], rel=0, abs=LOGPROB_BOUND), key
            elif not key.startswith(SERVED_ONLY):
                assert mine[key] == theirs[key], key
    for step in steps:
        for row, same in zip(rollouts(one, step), rollouts(other, step), strict=True):
            assert replace(row, logprobs=[]) == replace(same, logprobs=[])
            assert row.logprobs == pytest.approx(same.logprobs, rel=0, abs=LOGPROB_BOUND)


def logs(run: Path) -> set[str]:
    return {path.name for path in (run / "engines").iterdir()}


def test_servers_sample_and_train_as_embedded_engines_do(family: list[str], embedded: Path, tmp_path: Path) -> None:
    """With a server of each kind for each rank."""
    run = tmp_path / "run"
    options = [*SERVERS, "engine.replicas_per_node=2", f"run.dir={run}"]
    run_ranks(train, 2, [*family, *options, *layout(2, 1, 2)])
    assert_same_run(run, embedded)
    for line in read_metrics(run / "metrics.jsonl"):
        assert line["refit/bytes"] > 0
        assert line["engine/restarts"] == 0
    assert logs(run) == {f"{role}_rank{rank}.log" for role in ("explorer", "learner") for rank in (0, 1)}


def test_lost_servers_change_neither_samples_nor_updates(family: list[str], embedded: Path, tmp_path: Path) -> None:
    """With one server of each kind, so a rank speaks to none. They are killed, hang, and are killed before a refit."""
    run = tmp_path / "run"
    deadlines = ["engine.request_s=20", "engine.update_s=20"]  # a healthy server may take seconds on a busy machine
    overrides = [*family, *SERVERS, *deadlines, f"run.dir={run}", *layout(2, 1, 2)]
    losses = {
        2: [("explorer", signal.SIGKILL)],
        3: [("learner", signal.SIGKILL), ("refit", signal.SIGKILL)],
        4: [("explorer", signal.SIGSTOP)],
        5: [("learner", signal.SIGSTOP)],
    }
    run_ranks(disturbed, 2, overrides, losses, {})
    assert_same_run(run, embedded)
    restarts = [line["engine/restarts"] for line in read_metrics(run / "metrics.jsonl")]
    assert restarts[:2] == [0, 1]
    assert restarts[-1] == 5
    assert logs(run) == {"explorer_rank0.log", "learner_rank0.log"}


SEPARATE = ["engine.placement=separate", "engine.explorer_devices='0,1'", "engine.learner_devices='2,3'"]


@pytest.mark.parametrize("placement", [[], SEPARATE], ids=["colocated", "separate"])
def test_one_of_two_replicas_is_lost(family: list[str], embedded: Path, tmp_path: Path, placement: list[str]) -> None:
    """TP 2 with two servers of each kind. One of each dies while the other samples, and one as it is to be refitted."""
    run = tmp_path / "run"
    options = [*SERVERS, *placement, "engine.replicas_per_node=2", f"run.dir={run}", *layout(2, 1, 2)]
    losses = {2: [("explorer@1", signal.SIGKILL), ("learner@0", signal.SIGKILL)], 4: [("refit@1", signal.SIGKILL)]}
    ranks = run_ranks(disturbed, 2, [*family, *options], losses, {})
    assert_same_run(run, embedded)
    assert [rank["restarts"] for rank in ranks] == [(0, 1), (1, 1)]
    assert [line["engine/restarts"] for line in read_metrics(run / "metrics.jsonl")] == [0, 2, 3, 3, 3]


def test_an_explorer_ahead_of_time_changes_no_sample(family: list[str], embedded: Path, tmp_path: Path) -> None:
    """Also if its server is killed before a step, when it samples that step already."""
    run = tmp_path / "run"
    options = [*SERVERS, *SEPARATE, "engine.replicas_per_node=2", "rollout.explorer_ahead=true", f"run.dir={run}"]
    run_ranks(disturbed, 2, [*family, *options, *layout(2, 1, 2)], {2: [("explorer", signal.SIGKILL)]}, {})
    assert_same_run(run, embedded)
    ahead = [line["time/explorer_ahead"] for line in read_metrics(run / "metrics.jsonl")]
    assert ahead[0] is None  # nobody could begin the first step before it
    assert [seconds is not None for seconds in ahead[1:]] == [True, True, True, False]  # G_w is 0 at the last step


def test_a_server_lost_too_often_ends_the_run_with_the_last_checkpoint_good(
    family: list[str], embedded: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    overrides = [*family, *SERVERS, f"run.dir={run}", *layout(2, 1, 2)]
    with pytest.raises(RanksFailed, match=r"engine\.max_restarts=0"):
        run_ranks(disturbed, 2, [*overrides, "engine.max_restarts=0"], {2: [("learner", signal.SIGKILL)]}, {})
    assert (run / "checkpoints" / "step_000001").is_dir()
    run_ranks(train, 2, overrides)
    assert_same_run(run, embedded)


def test_the_whole_loop_runs_through_the_double_of_tensorrt_llm(
    family: list[str], embedded: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = ["engine.kind=tensorrt_llm", "engine.startup_s=600", "engine.request_s=600", "run.save_nemo=false"]
    overrides = [*family, *options, f"run.dir={run}", *layout(2, 1, 2)]
    run_ranks(disturbed, 2, overrides, {}, {"PYTHONPATH": str(DOUBLES)})
    mixed = {row.source for step in STEPS for row in rollouts(run, step)}
    assert mixed == {"explorer", "learner"}
    assert [row.token_ids for row in rollouts(run, 1)] == [row.token_ids for row in rollouts(embedded, 1)]
    for line in read_metrics(run / "metrics.jsonl"):
        assert line["logprob_diff/learner"] is None or line["logprob_diff/learner"] < 1e-5


def test_two_replicas_of_two_ranks_each_through_the_double_of_tensorrt_llm(
    family: list[str], embedded: Path, tmp_path: Path
) -> None:
    """Refits, sleep and lost servers, with a server of each kind for each rank. The double repeats its samples."""
    run = tmp_path / "run"
    options = ["engine.kind=tensorrt_llm", "engine.tensor_parallel_size=2", "engine.replicas_per_node=2"]
    deadlines = ["engine.startup_s=600", "engine.request_s=600"]
    overrides = [*family, *options, *deadlines, f"run.dir={run}", *layout(2, 1, 2)]
    losses = {2: [("explorer", signal.SIGKILL)], 3: [("learner", signal.SIGKILL)]}
    run_ranks(disturbed, 2, overrides, losses, {"PYTHONPATH": str(DOUBLES)})
    assert_same_run(run, embedded)
    assert [line["engine/restarts"] for line in read_metrics(run / "metrics.jsonl")][-1] > 0
    assert logs(run) == {f"{role}_rank{rank}.log" for role in ("explorer", "learner") for rank in (0, 1)}


def test_engines_of_four_gpus_each_through_the_double_of_tensorrt_llm(
    family: list[str], embedded: Path, tmp_path: Path
) -> None:
    """In a place of their own. The learner's four workers get a refit from two ranks; then both engines are lost."""
    run = tmp_path / "run"
    devices = ["engine.placement=separate", "engine.explorer_devices='0,1,2,3'", "engine.learner_devices='4,5,6,7'"]
    options = ["engine.kind=tensorrt_llm", "engine.tensor_parallel_size=4", *devices, "engine.startup_s=600"]
    losses = {2: [("explorer", signal.SIGKILL)], 3: [("refit", signal.SIGKILL)]}
    overrides = [*family, *options, f"run.dir={run}", *layout(2, 1, 2)]
    run_ranks(disturbed, 2, overrides, losses, {"PYTHONPATH": str(DOUBLES)})
    assert_same_run(run, embedded)
    assert [line["engine/restarts"] for line in read_metrics(run / "metrics.jsonl")] == [0, 1, 2, 2, 2]


def test_data_parallel_ranks_with_a_replica_each(family: list[str], tmp_path: Path) -> None:
    """A server of each kind for both ranks, the learner's of one rank lost, against embedded engines at DP 2."""
    served, embedded = tmp_path / "served", tmp_path / "embedded"
    short = [*family, "algorithm.steps=3", "algorithm.schedule.t_mix=3", *layout(1, 1, 2)]
    options = [*SERVERS, "engine.replicas_per_node=2", f"run.dir={served}"]
    run_ranks(disturbed, 2, [*short, *options], {2: [("learner@1", signal.SIGKILL)]}, {})
    run_ranks(train, 2, [*short, f"run.dir={embedded}"])
    assert_same_run(served, embedded, steps=(1, 2, 3))
    assert [line["engine/restarts"] for line in read_metrics(served / "metrics.jsonl")] == [0, 1, 1]
