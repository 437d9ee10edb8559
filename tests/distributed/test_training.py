"""Whole runs of the trainer on gloo ranks, with tiny random models and a scripted grader."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from s2l_nemo.config.checks import check_model_files
from s2l_nemo.config.load import load_config
from s2l_nemo.engines.kinds import ENGINES
from s2l_nemo.records.dump import read_rollouts
from s2l_nemo.records.metrics import read_metrics
from s2l_nemo.rewards.grader import Grade, GradeItem
from tests.distributed.models import write_qwen3
from tests.distributed.ranks import RanksFailed, run_ranks

CONF = Path(__file__).resolve().parents[2] / "conf"
BASE = [
    "algorithm.steps=6", "algorithm.schedule.t_mix=4", "algorithm.prompts_per_step=4", "algorithm.group_size=4",
    "algorithm.kl_coef=0.01", "model.micro_batch_size=4", "model.optim.lr=1e-3", "rollout.max_prompt_length=40",
    "rollout.max_response_length=12", "validation.prompts=4", "validation.samples=2", "validation.every=3",
    "checkpoint.every=1", "checkpoint.keep=0", "run.save_nemo=false", "data.arithmetic.train_prompts=40",
]  # fmt: skip


class ParityGrader:
    """Right if the response has an even number of characters: both rewards occur in random text."""

    def grade(self, items: Sequence[GradeItem]) -> list[Grade]:
        return [Grade(float(len(item.response) % 2 == 0), item.response[:1]) for item in items]

    def close(self) -> None:
        pass


class SignallingGrader(ParityGrader):
    """Sends SIGTERM to one rank while it grades the n-th response."""

    def __init__(self, rank: int, count: int) -> None:
        self.rank, self.left = rank, count

    def grade(self, items: Sequence[GradeItem]) -> list[Grade]:
        if 0 < self.left <= len(items) and int(os.environ["RANK"]) == self.rank:
            os.kill(os.getpid(), signal.SIGTERM)
        self.left -= len(items)
        return super().grade(items)


class FailingGrader(ParityGrader):
    """Every second check fails."""

    def grade(self, items: Sequence[GradeItem]) -> list[Grade]:
        grades = super().grade(items)
        return [Grade(None, None, "killed") if index % 2 else grade for index, grade in enumerate(grades)]


def train(overrides: list[str], grader: Any = None, plots: bool = False) -> dict[str, Any]:
    """One rank of a run. Returns the hash of the learner's engine after the last refit, and the signal that came.

    Drawing takes a quarter of such a run.
    """
    from s2l_nemo.trainer import recorder, setup

    cfg = load_config(overrides, CONF)
    patch = pytest.MonkeyPatch()
    patch.setattr(setup, "make_grader", lambda *_: grader or ParityGrader())
    if not plots:
        patch.setattr(recorder, "plot_run", lambda run_dir: [])
    trainers: list[Any] = []
    build = setup.build_trainer

    def build_and_keep(*arguments: Any) -> Any:
        trainers.append(build(*arguments))
        return trainers[0]

    patch.setattr(setup, "build_trainer", build_and_keep)
    received = setup.run_training(cfg, setup.load_inputs(cfg, check_model_files(cfg)))
    trainer = trainers[0]
    engines = trainer.validator
    hashes = {}
    if not ENGINES[cfg.engine.kind].served and cfg.validation.prompts:  # servers have ended, a replay may have none
        hashes["hash"] = engines.learner.weight_hash()
        hashes["explorer"] = engines.explorers[1].weight_hash() if engines.explorers else None
    return {
        **hashes,
        "signal": received,
        "step": trainer.step,
    }


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("family")
    learner = write_qwen3(folder / "learner", seed=0)
    explorer = write_qwen3(folder / "explorer", seed=1, hidden=32)
    return [*BASE, f"model.path={learner}", f"explorer.path={explorer}"]


def layout(tp: int, pp: int, world: int) -> list[str]:
    return [
        f"trainer.devices={world}",
        f"model.tensor_model_parallel_size={tp}",
        f"model.pipeline_model_parallel_size={pp}",
    ]


def untimed(metrics: dict[str, Any]) -> dict[str, Any]:
    timed = ("time/", "throughput/", "total/seconds")
    return {key: value for key, value in metrics.items() if not key.startswith(timed)}


def rollouts(run: Path, step: int) -> list[Any]:
    return read_rollouts(run / "rollouts" / f"step_{step:06d}.parquet")


@pytest.fixture(scope="module")
def whole(family: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Six steps at a stretch, TP 2."""
    run = tmp_path_factory.mktemp("whole") / "run"
    return run, run_ranks(train, 2, [*family, f"run.dir={run}", *layout(2, 1, 2)], None, True)[0]


def test_r21_run_directory(whole: tuple[Path, dict[str, Any]]) -> None:
    run, result = whole
    assert result["step"] == 6
    metrics = read_metrics(run / "metrics.jsonl")
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5, 6]
    assert [line["group/explorer"] for line in metrics] == [4, 3, 2, 0, 0, 0]
    assert [line["reward/explorer"] is None for line in metrics] == [False, False, False, True, True, True]
    assert [line["validation/pass@1"] is None for line in metrics] == [True, True, False, True, True, False]
    assert metrics[0]["reward/learner"] is None
    for line in metrics[1:]:
        assert line["logprob_diff/learner"] < 1e-5  # engine and actor agree after every refit
    assert metrics[0]["logprob_diff/explorer"] > 0.1
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 6
    assert summary["explorer_weight_hash"] == result["explorer"]  # taken before and after training
    assert result["explorer"] != result["hash"]
    assert {path.name for path in (run / "plots").iterdir()}
    config = OmegaConf.load(run / "config.yaml")
    assert config.algorithm.group_size == 4


def test_rollouts_carry_source_version_and_whole_groups(whole: tuple[Path, dict[str, Any]]) -> None:
    run, _ = whole
    rows = rollouts(run, 2)
    assert len(rows) == 16
    assert [row.source for row in rows[:4]] == ["explorer"] * 3 + ["learner"]
    assert {row.weight_version for row in rows if row.source == "learner"} == {1}
    for start in range(0, 16, 4):
        group = rows[start : start + 4]
        assert len({row.prompt_id for row in group}) == 1
        assert abs(sum(row.advantage for row in group)) < 1e-5
        if len({row.reward for row in group}) == 1:
            assert [row.advantage for row in group] == [0.0] * 4
    assert all(len(row.token_ids) == len(row.logprobs) for row in rows)


def test_r01_resume_across_t_mix_is_bit_for_bit(
    family: list[str], whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    expected_run, expected = whole
    run = tmp_path / "run"
    common = [*family, f"run.dir={run}", *layout(2, 1, 2)]
    # 4 validation samples a rank, then 8 responses a rank and step: rank 0 is signalled in step 3, before T_mix = 4
    stopped = run_ranks(train, 2, common, SignallingGrader(rank=0, count=4 + 8 + 8 + 1))
    assert stopped[0]["step"] == 3
    result = run_ranks(train, 2, common)[0]
    assert result["hash"] == expected["hash"]
    resumed, uninterrupted = (read_metrics(path / "metrics.jsonl") for path in (run, expected_run))
    assert [untimed(line) for line in resumed] == [untimed(line) for line in uninterrupted]
    for step in range(1, 7):
        assert rollouts(run, step) == rollouts(expected_run, step)


def test_f15_a_signal_finishes_the_step_saves_and_can_be_resumed(
    family: list[str], whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, expected = whole
    common = [*family, f"run.dir={tmp_path / 'run'}", "checkpoint.every=100", *layout(2, 1, 2)]
    # rank 1 alone is signalled, in step 2, and the other one stops with it
    stopped = run_ranks(train, 2, common, SignallingGrader(rank=1, count=4 + 8 + 3))
    assert [(result["signal"], result["step"]) for result in stopped] == [(signal.SIGTERM, 2)] * 2
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_000002"]
    assert run_ranks(train, 2, common)[0]["hash"] == expected["hash"]


@pytest.mark.parametrize(("tp", "pp", "world"), [(1, 2, 2), (1, 1, 2), (1, 1, 1)])
def test_every_layout_trains_alike(family: list[str], tmp_path: Path, tp: int, pp: int, world: int) -> None:
    run = tmp_path / "run"
    options = [
        "algorithm.steps=3",
        "algorithm.schedule.t_mix=2",
        "algorithm.mini_batch_prompts=2",
        "algorithm.optimizer_passes=2",
    ]
    tp2 = tmp_path / "tp2"
    run_ranks(train, 2, [*family, *options, f"run.dir={tp2}", *layout(2, 1, 2)])
    run_ranks(train, world, [*family, *options, f"run.dir={run}", *layout(tp, pp, world)])
    for mine, theirs in zip(read_metrics(run / "metrics.jsonl"), read_metrics(tp2 / "metrics.jsonl"), strict=True):
        assert {key for key, value in mine.items() if value is None} == {
            key for key, value in theirs.items() if value is None
        }
        for key, value in untimed(theirs).items():
            if value is not None:
                assert mine[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key
    assert [row.token_ids for row in rollouts(run, 3)] == [row.token_ids for row in rollouts(tp2, 3)]


def test_plain_grpo_needs_no_explorer(family: list[str], tmp_path: Path) -> None:
    options = ["explorer.path=null", "algorithm.schedule.name=none", "algorithm.schedule.t_mix=null"]
    run_ranks(train, 1, [*family, *options, "algorithm.steps=1", f"run.dir={tmp_path / 'run'}", *layout(1, 1, 1)])
    (metrics,) = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert (metrics["group/explorer"], metrics["group/learner"]) == (0, 4)
    assert metrics["reward/explorer"] is None
    assert metrics["logprob_diff/learner"] < 1e-5


@pytest.mark.parametrize(
    "options",
    [
        ["algorithm.importance=behavior", "algorithm.kl_coef=0", "algorithm.adv_norm=split"],
        ["algorithm.importance=truncated", "algorithm.aggregation=constant", "algorithm.adv_std=none"],
        ["algorithm.importance=shaped", "algorithm.dual_clip=3", "rollout.temperature=1.3", "rollout.top_k=50"],
    ],
    ids=lambda options: options[0].partition("=")[2],
)
def test_other_choices_of_the_algorithm_train(family: list[str], tmp_path: Path, options: list[str]) -> None:
    constant = ["algorithm.schedule.name=constant", "algorithm.schedule.alpha=0.5", "algorithm.schedule.t_mix=null"]
    common = ["algorithm.steps=2", *constant]
    run_ranks(train, 1, [*family, *common, *options, f"run.dir={tmp_path / 'run'}", *layout(1, 1, 1)])
    for line in read_metrics(tmp_path / "run" / "metrics.jsonl"):
        assert (line["group/explorer"], line["group/learner"]) == (2, 2)
        assert (line["kl"] is None) == ("algorithm.kl_coef=0" in options)
        assert line["grad_norm"] > 0
    # top-k renormalises what the engine reports, the actor's log-probs are of the whole vocabulary
    assert (line["logprob_diff/learner"] < 1e-5) == ("rollout.top_k=50" not in options)


def test_groups_without_a_gradient_can_be_left_out_of_every_replica(family: list[str], tmp_path: Path) -> None:
    options = ["algorithm.kl_coef=0", "algorithm.group_size=2", "algorithm.prompts_per_step=16", "algorithm.steps=2",
               "algorithm.schedule.t_mix=2", "model.micro_batch_size=2", "model.optim.lr=1e-5"]  # fmt: skip
    found = []
    for name, world, drop in (("all", 1, "false"), ("some", 2, "true")):
        run = tmp_path / name
        drops = f"algorithm.drop_zero_variance={drop}"
        run_ranks(train, world, [*family, *options, drops, f"run.dir={run}", *layout(1, 1, world)])
        found.append(read_metrics(run / "metrics.jsonl"))
    for whole, part in zip(*found, strict=True):
        assert (whole["group/dropped"], part["group/dropped"]) == (0, 16 * part["group/zero_variance_fraction"])
        assert 0 < part["group/dropped"] < 16
        for name in ("loss", "grad_norm"):
            assert part[name] == pytest.approx(whole[name], rel=1e-4, abs=1e-7)


def test_the_explorer_filter_leaves_rollouts_out_on_every_layout_alike(family: list[str], tmp_path: Path) -> None:
    options = ["rollout.explorer_filter=match_learner_diversity", "algorithm.steps=2", "algorithm.schedule.t_mix=2",
               "algorithm.group_size=8"]  # fmt: skip
    kept = []
    for name, world in (("one", 1), ("two", 2)):
        run = tmp_path / name
        run_ranks(train, world, [*family, *options, f"run.dir={run}", *layout(1, 1, world)])
        rows = rollouts(run, 1) + rollouts(run, 2)
        kept.append([row.kept for row in rows])
        assert all(row.kept for row in rows if row.source == "learner")
        assert all(row.advantage == 0 for row in rows if not row.kept)
        for line, step in zip(read_metrics(run / "metrics.jsonl"), (1, 2), strict=True):
            assert line["group/kept"] == sum(row.kept for row in rollouts(run, step)) / 4
            assert line["time/explorer_filter"] > 0
    assert kept[0] == kept[1]
    assert not all(kept[0])  # two random models: one is more diverse in some group


def test_failed_checks_are_counted(family: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["algorithm.steps=1", "algorithm.schedule.t_mix=1", f"run.dir={run}", *layout(1, 1, 1)]
    run_ranks(train, 1, [*family, *options], FailingGrader())
    (metrics,) = read_metrics(run / "metrics.jsonl")
    errors = [row for row in rollouts(run, 1) if row.grader_error == "killed"]
    assert metrics["reward/grader_errors"] == len(errors) == 8
    assert all(row.reward == 0 for row in errors)
    assert metrics["validation/grader_errors"] == 4


def train_on_a_full_disk(overrides: list[str]) -> None:
    pytest.MonkeyPatch().setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    train(overrides)


def test_no_space_is_found_before_training(family: list[str], tmp_path: Path) -> None:
    with pytest.raises(RanksFailed, match=r"^exit code 2: error: [^\n]*free[^\n]*\n$"):
        run_ranks(train_on_a_full_disk, 2, [*family, f"run.dir={tmp_path / 'run'}", *layout(2, 1, 2)])
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_another_explorer_is_refused_on_resume(family: list[str], tmp_path: Path) -> None:
    common = [*family, f"run.dir={tmp_path / 'run'}", *layout(1, 1, 1)]
    explorer = Path(next(key.partition("=")[2] for key in family if key.startswith("explorer.path")))
    run_ranks(train, 1, [*common, "algorithm.steps=1", "algorithm.schedule.t_mix=1"])
    original = (explorer / "model.safetensors").read_bytes()
    write_qwen3(explorer, seed=5, hidden=32)
    try:
        with pytest.raises(RanksFailed, match=r"exit code 2: error: explorer.path=.* restore the explorer"):
            run_ranks(train, 1, [*common, "algorithm.steps=2", "algorithm.schedule.t_mix=1"])
    finally:
        (explorer / "model.safetensors").write_bytes(original)
