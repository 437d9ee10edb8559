"""Rows of docs/reliability.md that need a real actor: what is not finite, full disks, killed ranks, longer runs."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from s2l_nemo.config.load import load_config
from s2l_nemo.records.metrics import read_metrics
from s2l_nemo.rewards.grader import Grade, GradeItem
from tests.distributed.models import fixed_batch, write_qwen3
from tests.distributed.ranks import CONTEXT, HANGS_S, RanksFailed, run_ranks
from tests.distributed.test_layouts import TEMPERATURE, build, own_rows, two_updates
from tests.distributed.test_training import BASE, CONF, ParityGrader, layout, train, untimed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen3(tmp_path_factory.mktemp("qwen3"))


@pytest.fixture(scope="module")
def family(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    explorer = write_qwen3(tmp_path_factory.mktemp("explorer"), seed=1, hidden=32)
    return [*BASE, f"model.path={folder}", f"explorer.path={explorer}"]


# ---- row 18: what is not finite ----------------------------------------------------------------------------------


def everything(actor: Any) -> list[torch.Tensor]:
    """Weights, master weights and both moments of this rank, copied."""
    optimizer, _ = actor.optimizer_and_scheduler()
    states = [
        value
        for inner in optimizer.mcore_optimizer.chained_optimizers
        for state in inner.optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    ]
    masters = [
        parameter
        for inner in optimizer.mcore_optimizer.chained_optimizers
        for group in inner.optimizer.param_groups
        for parameter in group["params"]
    ]
    return [one.detach().clone() for one in (*actor.parameters_by_name().values(), *masters, *states)]


def bad_gradient_on_one_rank(folder: Path, tp: int, pp: int, bad: float, in_loss: bool) -> dict[str, Any]:
    """A good update, one that is bad on the last rank alone, and a good one."""
    from s2l_nemo.algorithm.losses.aggregation import LossScale
    from s2l_nemo.algorithm.losses.policy import PolicyLoss
    from s2l_nemo.algorithm.options import AlgorithmConfig

    actor = build(folder, tp, pp)
    two_updates(actor)
    before = everything(actor)
    whole = fixed_batch()
    batch = own_rows(actor, whole)
    actor.prepare_for_training()
    actor.prepare_for_training_step()
    scale = LossScale(int(whole.mask_BS.sum()), len(whole), 64)
    sums = actor.get_loss_and_metrics(batch, PolicyLoss.of(AlgorithmConfig(kl_coef=0.05)), scale, TEMPERATURE)
    loss = sums["loss_sum"]
    if torch.distributed.get_rank() == torch.distributed.get_world_size() - 1:
        if in_loss:
            loss = bad
        else:
            next(iter(actor.parameters_by_name().values())).main_grad.view(-1)[0] = bad
    actor.finish_training_step()
    skipped = actor.optimizer_step(loss)
    actor.finish_training()
    same = all(torch.equal(a, b) for a, b in zip(before, everything(actor), strict=True))
    good = two_updates(actor)
    return {"skipped": skipped["skipped"], "same": same, "good": [one["skipped"] for one in good]}


@pytest.mark.parametrize(("tp", "pp", "bad", "in_loss"), [
    (1, 1, float("nan"), False), (2, 1, float("inf"), False), (1, 2, float("nan"), False), (1, 1, float("nan"), True),
])  # fmt: skip
def test_r18_nan_on_one_rank_lets_all_skip(folder: Path, tp: int, pp: int, bad: float, in_loss: bool) -> None:
    found = run_ranks(bad_gradient_on_one_rank, 2, folder, tp, pp, bad, in_loss)
    assert found == [{"skipped": 1.0, "same": True, "good": [0.0, 0.0]}] * 2


def bad_weight_on_one_rank(folder: Path, tp: int, pp: int) -> tuple[bool, bool]:
    actor = build(folder, tp, pp)
    before = actor.weights_are_finite()
    if torch.distributed.get_rank() == 1:
        next(iter(actor.parameters_by_name().values())).data.view(-1)[-1] = float("nan")
    return before, actor.weights_are_finite()


@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (1, 2)])
def test_a_weight_that_is_not_finite_is_seen_by_all(folder: Path, tp: int, pp: int) -> None:
    assert run_ranks(bad_weight_on_one_rank, 2, folder, tp, pp) == [(True, False)] * 2


def test_f02_a_rate_that_destroys_the_model_ends_the_run_with_a_line(family: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["model.optim.lr=1e30", "checkpoint.keep=1", "run.max_skipped=1", f"run.dir={run}", *layout(1, 1, 2)]
    with pytest.raises(
        RanksFailed, match=r"^exit code 2: error: [^\n]*not finite[^\n]*lower model\.optim\.lr[^\n]*\n$"
    ):
        run_ranks(train, 2, [*family, *options])
    assert len(list((run / "checkpoints").iterdir())) == 1


# ---- row 6: disks ------------------------------------------------------------------------------------------------


def save_twice(folder: Path, out: Path) -> None:
    """The second checkpoint does not fit: no file may be larger than this."""
    actor = build(folder, 1, 1)
    for name in ("first", "second"):
        if torch.distributed.get_rank() == 0:
            (out / name).mkdir()
        torch.distributed.barrier()
        actor.save(out / name, {"step": 1})
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))


def final_does_not_fit(folder: Path, out: Path) -> None:
    actor = build(folder, 1, 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
    actor.save_nemo(out / "final.nemo")


@pytest.mark.parametrize("save", [save_twice, final_does_not_fit])
def test_f18_a_file_that_cannot_be_written_is_one_line(folder: Path, tmp_path: Path, save: Any) -> None:
    line = r"^exit code 2: error: [^\n]*(File too large|could not be written to its end)[^\n]*ulimit -f[^\n]*\n$"
    with pytest.raises(RanksFailed, match=line):
        run_ranks(save, 2, folder, tmp_path)


# ---- row 17: restarts --------------------------------------------------------------------------------------------


class KillingGrader(ParityGrader):
    """Kills its rank while it grades the n-th response, once for each of the files that are there."""

    def __init__(self, rank: int, count: int, lives: Sequence[Path]) -> None:
        self.rank, self.left, self.lives = rank, count, lives

    def grade(self, items: Sequence[GradeItem]) -> list[Grade]:
        due = 0 < self.left <= len(items) and int(os.environ["RANK"]) == self.rank
        self.left -= len(items)
        for life in self.lives if due else []:
            if life.exists():
                life.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().grade(items)


def repeated_run(overrides: list[str], grader: Any, stderr: Path, restarts: int) -> None:
    import contextlib

    import tests.distributed.preload  # noqa: F401
    from s2l_nemo.platform.launch import fork_ranks
    from s2l_nemo.trainer.start import repeated

    cfg = load_config([*overrides, f"run.max_restarts={restarts}", "run.resume=never"], CONF)

    def main() -> None:
        train([*overrides, f"run.resume={cfg.run.resume.name}"], grader)

    def launched() -> int:
        return fork_ranks(main, 2)

    with stderr.open("w") as file, contextlib.redirect_stderr(file):
        code = repeated(launched, cfg.run)
    raise SystemExit(code)


@pytest.mark.parametrize(("lives", "restarts", "code"), [(2, 2, 0), (2, 1, 1)])
def test_r17_a_run_that_loses_ranks_ends_as_one_that_does_not(
    family: list[str], tmp_path: Path, lives: int, restarts: int, code: int
) -> None:
    kills = [tmp_path / f"life{n}" for n in range(lives)]
    for life in kills:
        life.touch()
    common = [*family, "algorithm.steps=4", "algorithm.schedule.t_mix=3", *layout(1, 1, 2)]
    run = [*common, f"run.dir={tmp_path / 'run'}"]
    # 4 validation samples a rank, then 8 a rank and step: in step 2 of the first start, in a later step of the second
    process = CONTEXT.Process(
        target=repeated_run, args=(run, KillingGrader(1, 4 + 8 + 1, kills), tmp_path / "stderr", restarts)
    )
    process.start()
    process.join(HANGS_S)
    said = (tmp_path / "stderr").read_text()
    assert process.exitcode == code, said
    assert said.count("rank 1 was killed by SIGKILL") == 2
    assert said.count("from the last checkpoint") == restarts
    if code == 0:
        expected = tmp_path / "whole"
        run_ranks(train, 2, [*common, f"run.dir={expected}"])
        mine, theirs = (read_metrics(path / "metrics.jsonl") for path in (tmp_path / "run", expected))
        assert [untimed(line) for line in mine] == [untimed(line) for line in theirs]


# ---- longer, shorter, another learning rate ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(family: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """A run of four steps with a cosine and T_mix of null, which is 2."""
    run = tmp_path_factory.mktemp("finished") / "run"
    options = ["algorithm.schedule.t_mix=null", "model.optim.lr_schedule=cosine", "model.optim.min_lr=1e-4"]
    common = [*family, *options, f"run.dir={run}", "run.save_nemo=true", *layout(1, 1, 1)]
    run_ranks(train, 1, [*common, "algorithm.steps=4"])
    return common, run


def test_f01_a_finished_run_can_be_extended_and_delivers_again(finished: tuple[list[str], Path]) -> None:
    common, run = finished
    before, delivered = read_metrics(run / "metrics.jsonl"), (run / "final.nemo").read_bytes()
    run_ranks(train, 1, [*common, "algorithm.steps=7", "validation.prompts=3"])
    after = read_metrics(run / "metrics.jsonl")
    assert after[:4] == before
    assert [line["group/explorer"] for line in after] == [4, 0, 0, 0, 0, 0, 0]  # T_mix stays 2
    assert [line["lr"] for line in after[4:]] == pytest.approx([1e-4] * 3)  # where the cosine ended
    assert (run / "final.nemo").read_bytes() != delivered
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 7
    assert summary["pass@1/after"] is not None
    assert summary["pass@1/difference"] is None  # four problems before, three after
    config = (run / "config.yaml").read_text()
    assert re.search(r"t_mix: 2\n", config)


def test_a_run_can_be_shortened_and_its_learning_rate_changed(family: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    common = [*family, "algorithm.schedule.t_mix=null", f"run.dir={run}", "run.save_nemo=true", *layout(1, 1, 1)]
    grader = StoppingGrader(8 + 16 + 1)  # in step 2 of 12, whose T_mix is 6
    run_ranks(train, 1, [*common, "algorithm.steps=12", "model.optim.warmup_steps=3"], grader)
    run_ranks(train, 1, [*common, "algorithm.steps=4", "model.optim.warmup_steps=3", "model.optim.lr=4e-3"])
    metrics = read_metrics(run / "metrics.jsonl")
    assert [line["group/explorer"] for line in metrics] == [4, 4, 3, 2]  # of T_mix 6
    assert [line["lr"] for line in metrics] == pytest.approx([0.25e-3, 0.5e-3, 3e-3, 4e-3])
    assert json.loads((run / "summary.json").read_text())["steps"] == 4
    done = (run / "final.nemo").stat().st_mtime_ns
    run_ranks(train, 1, [*common, "algorithm.steps=4", "model.optim.warmup_steps=3", "model.optim.lr=4e-3"])
    assert (run / "final.nemo").stat().st_mtime_ns > done


class StoppingGrader(ParityGrader):
    """Asks the run to stop while it grades the n-th response."""

    def __init__(self, count: int) -> None:
        self.left = count

    def grade(self, items: Sequence[GradeItem]) -> list[Grade]:
        if 0 < self.left <= len(items):
            os.kill(os.getpid(), signal.SIGUSR1)
        self.left -= len(items)
        return super().grade(items)
