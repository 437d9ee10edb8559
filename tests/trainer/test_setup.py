"""The parts of the set-up that need no model."""

from __future__ import annotations

import io
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from s2l_nemo.algorithm.options import AlgorithmConfig
from s2l_nemo.algorithm.schedule import ScheduleConfig
from s2l_nemo.config.explorers import Explorer
from s2l_nemo.config.schema import CheckpointConfig, Config, ExplorerConfig, Part
from s2l_nemo.data.prompts import PromptSet
from s2l_nemo.data.sources import BadRow
from s2l_nemo.engines.options import EngineConfig
from s2l_nemo.errors import UserError
from s2l_nemo.records.checkpoints import Checkpoint
from s2l_nemo.records.directory import RunDir
from s2l_nemo.records.identity import Difference
from s2l_nemo.trainer.grading import Grading
from s2l_nemo.trainer.identity import check_identity, weight_hashes
from s2l_nemo.trainer.ranks import Ranks
from s2l_nemo.trainer.rollouts import Rollouts
from s2l_nemo.trainer.setup import (
    REPORT_FAILED,
    Inputs,
    announce,
    collective_timeout_s,
    make_recorder,
    open_run_dir,
    pad_token_id,
    run_training,
)
from s2l_nemo.trainer.stop import StopRequest
from s2l_nemo.trainer.time_limit import OUT_OF_TIME
from s2l_nemo.types import Source
from tests.trainer.scripted import (
    ONE_RANK,
    Run,
    ScriptedActor,
    ScriptedEngine,
    ScriptedGrader,
    ScriptedLearnerEngine,
    ScriptedTime,
    decode,
    make_run,
    prompts,
    right,
)
from tests.trainer.scripted import (
    make_recorder as scripted_recorder,
)


def config(folder: Path) -> Config:
    """The defaults, written below `folder`."""
    cfg = Config()
    cfg.run.dir, cfg.run.seed = str(folder / "run"), 5
    cfg.model.path, cfg.explorer.path = "large", "small"
    return cfg


def facts(folder: Path, cfg: Config, train: PromptSet, resumed: Checkpoint | None = None) -> dict[str, str]:
    """What is announced, by the name of the fact."""
    output = io.StringIO()
    recorder = scripted_recorder(folder, ScriptedTime(), output)
    announce(recorder, cfg, Inputs(cast(Any, None), train, PromptSet(prompts(9), 0)), resumed)
    title, *lines = output.getvalue().splitlines()
    assert title == "S2L-PO"
    return {line.split()[0]: line.split(maxsplit=1)[1].strip() for line in lines if line.startswith("  ")}


def test_facts_of_a_new_run(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    assert facts(tmp_path, cfg, PromptSet(prompts(5, 6, 7), 0)) == {
        "learner": "large",
        "explorer": "small",
        "ranks": "TP 1 x PP 1 x DP 1 on CPU, fp32",
        "batch": "32 prompts x 16 samples a step",
        "schedule": "linear, 16 steps",
        "data": "3 training prompts, 1 held out",
        "run": f"{tmp_path}/run, new, seed 5",
    }


def test_facts_of_a_run_that_continues(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    cfg.explorer.path, cfg.algorithm.schedule.name = None, "none"
    skipped = [BadRow(line, f"reason {line}") for line in (2, 3, 5, 8)]
    found = facts(tmp_path, cfg, PromptSet(prompts(5), 4, skipped), Checkpoint(12, tmp_path))
    assert found["explorer"] == "none (plain GRPO)"
    assert found["data"] == (
        "1 training prompts, 4 over 64 tokens left out, 4 malformed rows left out "
        "(line 2: reason 2; line 3: reason 3; line 5: reason 5), 1 held out"
    )
    assert found["run"] == f"{tmp_path}/run, continues after step 12, seed 5"


def test_f09_what_is_left_out_is_said_of_both_data_sets(tmp_path: Path) -> None:
    output = io.StringIO()
    recorder = scripted_recorder(tmp_path, ScriptedTime(), output)
    valid = PromptSet(prompts(9), 4, [BadRow(3, "no answer")])
    announce(recorder, config(tmp_path), Inputs(cast(Any, None), PromptSet(prompts(5), 0), valid), None)
    assert (
        "1 training prompts, 1 held out, 4 over 64 tokens left out, 1 malformed rows left out (line 3: no answer)\n"
    ) in output.getvalue()


def test_warnings_follow_the_facts(tmp_path: Path) -> None:
    output = io.StringIO()
    recorder = scripted_recorder(tmp_path, ScriptedTime(), output)
    inputs = Inputs(cast(Any, None), PromptSet(prompts(5), 0), PromptSet(prompts(9), 0), warnings=["no box", "no gold"])
    announce(recorder, config(tmp_path), inputs, None)
    assert output.getvalue().splitlines()[-2:] == ["warning: no box", "warning: no gold"]


def test_another_explorer_is_refused(tmp_path: Path) -> None:
    state = {"step": 3, "explorer_weight_hash": "a" * 64}
    check_identity(state, {"explorer_weight_hash": "a" * 64}, config(tmp_path))
    with pytest.raises(UserError) as caught:
        check_identity(state, {"explorer_weight_hash": "b" * 64}, config(tmp_path))
    assert str(caught.value) == (
        f"explorer.path=small has weights bbbbbbbbbbbb, the run in {tmp_path}/run began with aaaaaaaaaaaa; restore the "
        "explorer, choose another run.dir, or set run.allow_changed=[explorer]"
    )


def test_another_explorer_that_is_allowed_is_a_difference_to_record(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    cfg.run.allow_changed = [Part.explorer]
    state = {"step": 3, "explorer_weight_hash": "a" * 64}
    assert check_identity(state, {"explorer_weight_hash": "b" * 64}, cfg) == [
        Difference("explorer", "explorer.path=small", "weights aaaaaaaaaaaa", "weights bbbbbbbbbbbb")
    ]


@pytest.mark.parametrize(("update_s", "timeout_s"), [(300.0, 1800.0), (870.0, 1800.0), (1200.0, 2460.0)])
def test_a_collective_may_take_longer_than_a_server_in_a_refit(update_s: float, timeout_s: float) -> None:
    """Two deadlines of a bucket and a minute, at least half an hour. No other deadline counts, nor the restarts."""
    engine = EngineConfig(update_s=update_s, request_s=1e6, startup_s=1e6, max_restarts=100)
    assert collective_timeout_s(engine) == timeout_s


RANK_1 = Ranks(1, (0,), (0, 0))
ONE_EXPLORER = [Explorer("explorer", "explorer", ExplorerConfig())]


def hash_of(rollouts: Rollouts) -> str | None:
    return weight_hashes(rollouts, ONE_EXPLORER)["explorer_weight_hash"]


class TwoRanks(Ranks):
    """The other rank has told `other`, and works no longer than this one."""

    other: Any = None

    def gather(self, value: Any) -> list[Any]:
        return [value, value if isinstance(value, bool) else self.other]


def rollouts(ranks: Ranks, *, explores: bool = True) -> Rollouts:
    time = ScriptedTime()
    explorers = {1: ScriptedEngine(Source.EXPLORER, right, time, 0.0)} if explores else {}
    learner = ScriptedLearnerEngine(right, time, 0.0)
    return Rollouts(explorers, learner, ScriptedActor(), ranks, Grading(decode, ScriptedGrader(time)))


def test_the_explorers_weights_are_those_of_every_node(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hash_of(rollouts(Ranks(0, (0,), (0,)))) == "hash of explorer"
    assert weight_hashes(rollouts(Ranks(0, (0,), (0,)), explores=False), []) == {"explorer_weight_hash": None}
    both = TwoRanks(0, (0, 1), (0, 1))
    monkeypatch.setattr(TwoRanks, "other", "hash of explorer")
    assert hash_of(rollouts(both)) == "hash of explorer"
    # A rank without engines knows it from the others, and does not ask an engine.
    assert hash_of(rollouts(replace(both, rank=1, leaders=(0,)))) == "hash of explorer"
    monkeypatch.setattr(TwoRanks, "other", "another")
    assert hash_of(rollouts(replace(both, rank=1, leaders=(0,)))) == "another"
    with pytest.raises(UserError) as caught:
        hash_of(rollouts(both))
    assert str(caught.value) == "explorer.path has 2 different models on the nodes: copy one to all of them"


@pytest.mark.parametrize(("pad", "eos", "expected"), [(3, 5, 3), (0, 5, 0), (None, 5, 5), (None, None, 0)])
def test_padding(pad: int | None, eos: int | None, expected: int) -> None:
    tokenizer: Any = SimpleNamespace(pad_token_id=pad, eos_token_id=eos)
    assert pad_token_id(tokenizer) == expected


def test_a_run_directory_that_is_not_ours_is_refused_on_every_rank(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    run_dir, resumed = open_run_dir(cfg, {})
    assert (run_dir.path, resumed) == (tmp_path / "run", None)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").touch()
    cfg.run.dir = str(tmp_path / "foreign")
    with pytest.raises(UserError, match=r"foreign is not a run of S2L-PO and holds 'thesis\.tex'"):
        open_run_dir(cfg, {})


def actor_of(parameters: int) -> Any:
    return SimpleNamespace(shape=SimpleNamespace(parameters=parameters))


def test_the_recorder_continues_where_the_checkpoint_was_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = config(tmp_path)
    run_dir, _ = open_run_dir(cfg, {})
    run_dir.metrics.write_text('{"step": 3}\n{"step": 4}\n')
    identity = {"explorer_weight_hash": None}
    state = {"step": 3, "seconds": 60.0}
    recorder = make_recorder(cfg, run_dir, Checkpoint(3, tmp_path), identity, decode, actor_of(10), ONE_RANK, state)
    recorder.close()
    assert run_dir.metrics.read_text() == '{"step": 3}\n'
    assert (recorder.seconds_before, recorder.checkpoint_bytes, recorder.identity) == (60.0, 160, identity)
    assert (recorder.checkpoint, recorder.logging) == (cfg.checkpoint, cfg.logging)
    assert recorder.wanted == r"\boxed{}"
    recorder.say("as it continues")
    assert capsys.readouterr().out == "as it continues\n"


def test_other_ranks_have_no_writer(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    run_dir, _ = open_run_dir(cfg, {})
    recorder = make_recorder(cfg, run_dir, None, {}, decode, actor_of(10), RANK_1, {"step": 0, "seconds": 0.0})
    assert (recorder.writer, recorder.console) == (None, None)
    assert not run_dir.metrics.exists()


def test_a_model_too_large_for_the_disk_is_refused_before_training(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    run_dir, _ = open_run_dir(cfg, {})
    with pytest.raises(UserError, match="needs 16000000000"):
        make_recorder(cfg, run_dir, None, {}, decode, actor_of(10**18), RANK_1, {"step": 0, "seconds": 0.0})


@pytest.fixture
def scripted(tmp_path: Path, stop: StopRequest, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The run that `run_training` gets instead of one with models. It has one step of plain GRPO."""
    algorithm = AlgorithmConfig(
        steps=2, prompts_per_step=1, group_size=2, kl_coef=0.0, schedule=ScheduleConfig(name="none")
    )
    run = make_run(tmp_path / "run", stop, algorithm, train=prompts(5), checkpoint=CheckpointConfig(every=9))
    monkeypatch.setattr("s2l_nemo.trainer.setup.build_trainer", lambda cfg, inputs, own_stop: run.trainer)
    monkeypatch.setattr("s2l_nemo.trainer.recorder.plot_run", lambda run_dir: [])
    return run


@pytest.mark.parametrize(("save_nemo", "export_hf"), [(True, False), (False, True), (False, False)])
def test_a_whole_run_is_summarised_and_delivered(
    tmp_path: Path, scripted: Run, save_nemo: bool, export_hf: bool
) -> None:
    cfg = config(tmp_path)
    cfg.run.save_nemo, cfg.run.export_hf = save_nemo, export_hf
    assert run_training(cfg, cast(Any, None)) == 0
    folder = tmp_path / "run"
    delivered = [f"trained learner {folder}/final.nemo"] * save_nemo + [f"trained learner {folder}/hf"] * export_hf
    assert scripted.messages() == [
        "validation after step 0: pass@1 1.000 [1.000, 1.000] on 2 held-out prompts",
        "validation after step 2: pass@1 1.000 [1.000, 1.000] on 2 held-out prompts",
        *delivered,
        "pass@1 1.000 -> 1.000, difference +0.000 (95 % paired bootstrap +0.000 to +0.000)",
        f"summary {folder}/summary.json",
        f"plots {folder}/plots, 0 of them",
    ]
    assert ((folder / "final.nemo").exists(), (folder / "hf").exists()) == (save_nemo, export_hf)
    assert scripted.grader.is_closed
    assert is_closed(scripted)


def test_f01_a_report_that_fails_comes_after_the_weights_and_shows_in_the_exit_code(
    tmp_path: Path, scripted: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: RunDir) -> list[Path]:
        assert (tmp_path / "run" / "final.nemo").exists()
        raise ValueError("no\nfont")

    monkeypatch.setattr("s2l_nemo.trainer.recorder.plot_run", fails)
    with pytest.raises(SystemExit) as end:
        run_training(config(tmp_path), cast(Any, None))
    assert end.value.code == REPORT_FAILED == 3
    assert scripted.messages()[-1] == "failed: plots (no font); the trained weights are complete"
    assert (tmp_path / "run" / "summary.json").exists()
    assert is_closed(scripted)


def test_a_run_that_a_signal_ends_says_how_to_continue(tmp_path: Path, scripted: Run, stop: StopRequest) -> None:
    stop.signal = signal.SIGTERM
    assert run_training(config(tmp_path), cast(Any, None)) == signal.SIGTERM
    assert scripted.messages() == [
        "validation after step 0: pass@1 1.000 [1.000, 1.000] on 2 held-out prompts",
        "stopped by SIGTERM after step 1; run the same command again to continue",
    ]
    assert not (tmp_path / "run" / "summary.json").exists()
    assert is_closed(scripted)


def test_a_run_out_of_time_says_how_to_continue(tmp_path: Path, scripted: Run) -> None:
    cfg = config(tmp_path)
    cfg.run.save_before = "+1s"
    with pytest.raises(SystemExit) as end:
        run_training(cfg, cast(Any, None), save_before=0.0)
    assert end.value.code == OUT_OF_TIME == 4
    assert scripted.messages()[-1] == (
        "saved after step 1 of 16, as run.save_before=+1s leaves no time for another; run the same command again to "
        "continue"
    )
    assert (tmp_path / "run" / "checkpoints" / "step_000001").is_dir()
    assert not (tmp_path / "run" / "summary.json").exists()
    assert is_closed(scripted)


def test_a_run_that_fails_closes_what_it_opened(tmp_path: Path, scripted: Run) -> None:
    scripted.actor.fails_to_save = True
    with pytest.raises(OSError, match="no space left"):
        run_training(config(tmp_path), cast(Any, None))
    assert scripted.grader.is_closed
    assert is_closed(scripted)


def is_closed(run: Run) -> bool:
    assert run.recorder.writer is not None
    return run.recorder.writer._file.closed
