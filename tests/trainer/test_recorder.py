"""What a run writes and says, to the letter."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from s2l_nemo.algorithm.options import AlgorithmConfig
from s2l_nemo.algorithm.schedule import ScheduleConfig
from s2l_nemo.config.schema import CheckpointConfig, LoggingConfig, ValidationConfig
from s2l_nemo.errors import UserError
from s2l_nemo.records.checkpoints import latest_checkpoint
from s2l_nemo.records.directory import RunDir
from s2l_nemo.records.dump import read_rollouts
from s2l_nemo.records.metrics import REQUIRED_KEYS, read_metrics
from s2l_nemo.trainer.exchange import StepGroups
from s2l_nemo.trainer.metrics import Metrics
from s2l_nemo.trainer.progress import Progress
from s2l_nemo.trainer.ranks import Ranks
from s2l_nemo.trainer.recorder import Recorder
from s2l_nemo.trainer.stop import StopRequest
from s2l_nemo.trainer.validation import Validation
from s2l_nemo.types import Completion, Group, SampleRequest, Source
from tests.arrays import ids, lps
from tests.trainer.scripted import ONE_RANK, Answer, ScriptedActor, ScriptedTime, make_recorder, make_run, prompts
from tests.trainer.world import ThreadRanks, on_all_ranks

BEFORE = Validation([[0.0, 0.0], [1.0, 1.0]], grader_errors=0)
AFTER = Validation([[0.5, 0.5], [1.5, 1.5]], grader_errors=2)


def metrics_of(step: int) -> Metrics:
    return {**dict.fromkeys(REQUIRED_KEYS, 1.0), "lr": step / 8, "kl": None}


def groups() -> StepGroups:
    asked = (prompt,) = prompts(7)
    first = Completion(7, 0, Source.EXPLORER, ids([1, 4]), lps([-1.0, -2.0]), "stop", 0, 1.0, "4", None, kept=False)
    second = Completion(7, 1, Source.LEARNER, ids([0]), lps([-0.5]), "length", 3, 0.0, None, "killed")
    return StepGroups.gather(ONE_RANK, asked, [Group(prompt, (first, second))])


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def time() -> ScriptedTime:
    return ScriptedTime()


@pytest.fixture
def recorder(tmp_path: Path, output: io.StringIO, time: ScriptedTime) -> Recorder:
    return make_recorder(tmp_path / "run", time, output)


@pytest.fixture
def plotted(monkeypatch: pytest.MonkeyPatch) -> list[RunDir]:
    """The run directories of which plots were drawn. Drawing takes seconds and is tested with the plots."""
    drawn: list[RunDir] = []

    def plot_run(run_dir: RunDir) -> list[Path]:
        assert run_dir.summary.exists()  # the plots show it
        drawn.append(run_dir)
        return [Path("a.png"), Path("b.png")]

    monkeypatch.setattr("s2l_nemo.trainer.recorder.plot_run", plot_run)
    return drawn


def rank_1(folder: Path, time: ScriptedTime) -> Recorder:
    """The recorder of another rank of the same replica, which writes and says nothing."""
    quiet = make_recorder(folder, time, io.StringIO(), ranks=Ranks(1, (0,), (0, 0)))
    quiet.writer = quiet.console = None
    return quiet


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_validation_is_written_and_said(recorder: Recorder, output: io.StringIO) -> None:
    recorder.validated(0, BEFORE, prompts(7, 9))
    recorder.validated(12, AFTER, prompts(7, 9))
    # The means of two drawn problems are both ends with probability 1/4 each: 95 % spans everything.
    assert output.getvalue() == (
        "validation after step 0: pass@1 0.500 [0.000, 1.000] on 2 held-out prompts\n"
        "validation after step 12: pass@1 1.000 [0.500, 1.500] on 2 held-out prompts, 2 checks failed\n"
    )
    assert sorted(path.name for path in recorder.run_dir.validation.iterdir()) == [
        "step_000000.json", "step_000012.json",
    ]  # fmt: skip
    assert (recorder.run_dir.validation / "step_000012.json").read_text() == (
        json.dumps(
            {"step": 12, "prompt_ids": [7, 9], "correct": [[0.5, 0.5], [1.5, 1.5]], "grader_errors": 2, "asked": {}},
            indent=2,
        )
        + "\n"
    )


def test_a_step_without_answers_is_said_once(tmp_path: Path, output: io.StringIO, time: ScriptedTime) -> None:
    recorder = make_recorder(tmp_path / "run", time, output, wanted=r"\boxed{}")
    for step, answered in enumerate((1.0, 0.05, 0.049, 0.0), start=1):
        metrics = metrics_of(step) | {
            "reward/answered_fraction": answered,
            "response_length/truncated_fraction": 0.75,
        }
        recorder.stepped(step, metrics, groups(), torch.tensor([[0.5, -0.5]]), seconds=2.5)
    assert [line for line in output.getvalue().splitlines() if "hold an answer" in line] == [
        r"warning: 4.9% of the responses of step 3 hold an answer, which the reward looks for in \boxed{}; 75% were "
        "cut at the limit: read some with tools/show_rollouts.py, and see data.instruction and "
        "rollout.max_response_length"
    ]


def test_a_step_is_written_and_said(recorder: Recorder, output: io.StringIO) -> None:
    recorder.stepped(3, metrics_of(3), groups(), torch.tensor([[0.5, -0.5]]), seconds=2.5)
    recorder.close()
    (line,) = read_metrics(recorder.run_dir.metrics)
    assert line == {"step": 3, **metrics_of(3), "time/step_with_validation": 2.5}
    titles, values, warning = output.getvalue().splitlines()
    assert titles.split()[:3] == ["step", "alpha", "Gw/Gs"]
    assert values.split()[:3] == ["3/9", "1.00", "1/1"]
    assert warning == "warning: step 3: 1 checks failed, the first with 'killed'; their rewards are 0"
    rows = read_rollouts(recorder.run_dir.rollout_file(3))
    assert [(row.step, row.source, row.response, row.advantage, row.reward, row.kept) for row in rows] == [
        (3, "explorer", "1 4", 0.5, 1.0, False),
        (3, "learner", "0", -0.5, 0.0, True),
    ]
    assert [(row.extracted, row.grader_error, row.finish_reason, row.weight_version) for row in rows] == [
        ("4", None, "stop", 0),
        (None, "killed", "length", 3),
    ]


@pytest.mark.parametrize(("every", "dumped"), [(0, []), (1, [1, 2, 3, 4]), (2, [2, 4]), (3, [3])])
def test_rollouts_of_every_nth_step_are_kept(
    tmp_path: Path, output: io.StringIO, time: ScriptedTime, every: int, dumped: list[int]
) -> None:
    recorder = make_recorder(tmp_path, time, output, logging=LoggingConfig(rollouts_every=every))
    for step in range(1, 5):
        recorder.stepped(step, metrics_of(step), groups(), torch.zeros(1, 2), seconds=1.0)
    assert [step for step in range(1, 5) if recorder.run_dir.rollout_file(step).exists()] == dumped


def test_other_ranks_write_and_say_nothing(tmp_path: Path, time: ScriptedTime) -> None:
    recorder = rank_1(tmp_path, time)
    before = files(tmp_path)
    recorder.validated(0, BEFORE, prompts(7, 9))
    recorder.stepped(1, metrics_of(1), groups(), torch.zeros(1, 2), seconds=1.0)
    recorder.summarize(0)
    recorder.say("nothing")
    recorder.close()
    assert files(tmp_path) == before


@pytest.mark.parametrize("replica_of", [(0, 1, 2), (0, 0, 1, 1), (0, 1, 0, 1)])
def test_rank_0_writes_the_rollouts_of_all_replicas_in_the_order_of_the_prompts(
    tmp_path: Path, time: ScriptedTime, replica_of: tuple[int, ...]
) -> None:
    asked = prompts(9, 7, 8, 5)
    replica_P = [1, 0, 1, max(replica_of)]

    def job(ranks: ThreadRanks) -> None:
        own = [
            Group(prompt, (Completion(prompt.prompt_id, 0, Source.LEARNER, ids([p]), lps([-p]), "stop", 0, 1.0),))
            for p, prompt in enumerate(asked)
            if replica_P[p] == ranks.replica
        ]
        recorder = make_recorder(tmp_path / str(ranks.rank), time, io.StringIO(), ranks=ranks)
        if ranks.rank:
            recorder.writer = recorder.console = None
        gathered = StepGroups.gather(ranks, asked, own)
        recorder.stepped(1, metrics_of(1), gathered, torch.tensor([[0.25], [0.5], [0.75], [1.0]]), seconds=1.0)

    on_all_ranks(job, replica_of)
    rows = read_rollouts(RunDir(tmp_path / "0").rollout_file(1))
    assert [(row.prompt_id, row.token_ids, row.logprobs, row.advantage) for row in rows] == [
        (9, [0], [0.0], 0.25), (7, [1], [-1.0], 0.5), (8, [2], [-2.0], 0.75), (5, [3], [-3.0], 1.0),
    ]  # fmt: skip
    for rank in range(1, len(replica_of)):
        assert not RunDir(tmp_path / str(rank)).rollout_file(1).exists()


def test_a_checkpoint_has_the_trainers_state(recorder: Recorder, time: ScriptedTime) -> None:
    time.passes(2.5)
    recorder.save(ScriptedActor(), Progress(4))
    checkpoint = latest_checkpoint(recorder.run_dir.checkpoints)
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.path) == (4, recorder.run_dir.checkpoint(4))
    assert ScriptedActor().load(checkpoint.path) == {
        **Progress(4).state(),
        "seconds": 2.5,
        "explorer_weight_hash": "e" * 64,
    }


@pytest.mark.parametrize(("keep", "kept"), [(0, [1, 2, 3]), (1, [3]), (2, [2, 3])])
def test_old_checkpoints_are_pruned(
    tmp_path: Path, output: io.StringIO, time: ScriptedTime, keep: int, kept: list[int]
) -> None:
    recorder = make_recorder(tmp_path, time, output, checkpoint=CheckpointConfig(keep=keep))
    for step in (1, 2, 3):
        recorder.save(ScriptedActor(), Progress(step))
    assert sorted(path.name for path in recorder.run_dir.checkpoints.iterdir()) == [f"step_{n:06d}" for n in kept]


def test_a_checkpoint_that_fails_does_not_count_and_leaves_the_last_one(recorder: Recorder) -> None:
    recorder.save(ScriptedActor(), Progress(1))
    with pytest.raises(OSError, match="no space left"):
        recorder.save(ScriptedActor(fails_to_save=True), Progress(2))
    checkpoint = latest_checkpoint(recorder.run_dir.checkpoints)
    assert checkpoint is not None
    assert checkpoint.step == 1
    (recorder.run_dir.checkpoint_tmp(2) / "left over").write_text("of the failed one")
    recorder.save(ScriptedActor(), Progress(2))
    assert files(recorder.run_dir.checkpoint(2)) == ["COMPLETE.json", "state.json", "weights"]
    assert not recorder.run_dir.checkpoint_tmp(2).exists()


def test_a_disk_without_space_is_refused_before_anything_is_written(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=999))
    with pytest.raises(UserError, match=r"needs 0\.00 GB"):
        recorder.save(ScriptedActor(), Progress(1))
    assert not recorder.run_dir.checkpoints.exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    recorder.save(ScriptedActor(), Progress(1))


def test_another_rank_saves_its_part_and_publishes_nothing(tmp_path: Path, time: ScriptedTime) -> None:
    recorder = rank_1(tmp_path, time)
    temporary = recorder.run_dir.checkpoint_tmp(1)
    temporary.mkdir(parents=True)  # rank 0 has made it
    (temporary / "part of rank 0").touch()
    recorder.save(ScriptedActor(), Progress(1))
    assert files(temporary) == ["part of rank 0", "state.json", "weights"]
    assert not recorder.run_dir.checkpoint(1).exists()


def test_ranks_wait_for_each_other_in_a_save(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on the disk each time that all ranks meet."""
    run_dir = recorder.run_dir
    seen: list[list[str]] = []

    def barrier() -> None:
        temporary, final = run_dir.checkpoint_tmp(1), run_dir.checkpoint(1)
        seen.append(files(temporary) if temporary.exists() else ["published", *files(final)])

    monkeypatch.setattr(torch.distributed, "barrier", barrier)
    recorder.save(ScriptedActor(), Progress(1))
    # The folder is there before a rank writes into it, and has all parts before it is published.
    assert seen == [[], ["state.json", "weights"], ["published", "COMPLETE.json", "state.json", "weights"]]


def test_every_rank_has_the_seconds_of_rank_0(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    def from_rank_0(values: list[float], source: int) -> None:
        values[source] = 42.0

    monkeypatch.setattr(torch.distributed, "broadcast_object_list", from_rank_0)
    assert recorder.elapsed() == 42.0


def test_the_summary_compares_before_and_after(
    recorder: Recorder, output: io.StringIO, time: ScriptedTime, plotted: list[RunDir]
) -> None:
    recorder.seconds_before = 60.0
    recorder.validated(0, BEFORE, prompts(7, 9))
    recorder.validated(1, BEFORE, prompts(7, 9))  # not the last one
    recorder.validated(2, AFTER, prompts(7, 9))
    output.truncate(0), output.seek(0)
    time.passes(1.5)
    assert recorder.summarize(2)
    assert recorder.run_dir.summary.read_text() == (
        json.dumps(
            {
                "pass@1/before": 0.5, "pass@1/before_low": 0.0, "pass@1/before_high": 1.0,
                "pass@1/after": 1.0, "pass@1/after_low": 0.5, "pass@1/after_high": 1.5,
                # each problem gains exactly 1/2
                "pass@1/difference": 0.5, "pass@1/difference_low": 0.5, "pass@1/difference_high": 0.5,
                "steps": 2, "seconds": 61.5, "explorer_weight_hash": "e" * 64,
            },
            indent=2,
        )
        + "\n"
    )  # fmt: skip
    assert output.getvalue() == (
        "pass@1 0.500 -> 1.000, difference +0.500 (95 % paired bootstrap +0.500 to +0.500)\n"
        f"summary {recorder.run_dir.summary}\nplots {recorder.run_dir.plots}, 2 of them\n"
    )
    assert plotted == [recorder.run_dir]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ([7], "1 held-out prompts before training, 2 after it, not the same"),
        ([7, 8], "2 held-out prompts before training, 2 after it, not the same"),
        ([], "is missing"),
    ],
)
def test_validations_of_other_prompts_are_told_and_not_compared(
    recorder: Recorder, output: io.StringIO, plotted: list[RunDir], asked: list[int], reason: str
) -> None:
    if asked:
        recorder.validated(0, replace(BEFORE, correct_PK=BEFORE.correct_PK[: len(asked)]), prompts(*asked))
    recorder.validated(2, AFTER, prompts(7, 9))
    assert recorder.summarize(2)
    summary = json.loads(recorder.run_dir.summary.read_text())
    assert (summary["pass@1/after"], summary["pass@1/difference"]) == (1.0, None)
    assert (summary["pass@1/before"] is None) == (not asked)
    (line,) = [line for line in output.getvalue().splitlines() if "->" in line]
    assert "-> 1.000, not compared: " in line
    assert line.endswith(reason)
    assert plotted


@pytest.mark.parametrize("text", ["", "{}", '{"correct": [], "prompt_ids": []}'])
def test_a_damaged_validation_is_a_report_that_fails(
    recorder: Recorder, output: io.StringIO, plotted: list[RunDir], text: str
) -> None:
    recorder.validated(2, AFTER, prompts(7, 9))
    (recorder.run_dir.validation / "step_000000.json").write_text(text)
    recorder.run_dir.summary.write_text("{}")
    assert not recorder.summarize(2)
    (line,) = [line for line in output.getvalue().splitlines() if line.startswith("failed")]
    assert line.startswith("failed: the summary (")
    assert plotted  # another report is still made


def test_f18_final_nemo_is_written_whole_or_not_at_all(recorder: Recorder, output: io.StringIO) -> None:
    folder = recorder.run_dir.path
    final = folder / "final.nemo"
    final.write_text("of an earlier run")
    with pytest.raises(OSError, match="no space left"):
        recorder.save_nemo(ScriptedActor(fails_to_save=True))
    assert (final.read_text(), output.getvalue()) == ("of an earlier run", "")
    assert not (folder / "tmp_final.nemo").exists()  # it would take the space that another try needs
    recorder.save_nemo(ScriptedActor())
    assert final.read_text() == "half of the weights"
    assert not (folder / "tmp_final.nemo").exists()
    assert output.getvalue() == f"trained learner {final}\n"


def test_another_rank_leaves_final_nemo_to_rank_0(tmp_path: Path, time: ScriptedTime) -> None:
    rank_1(tmp_path, time).save_nemo(ScriptedActor())
    assert not (tmp_path / "final.nemo").exists()


def test_the_hugging_face_folder(recorder: Recorder, output: io.StringIO) -> None:
    recorder.export_hf(ScriptedActor())
    assert (recorder.run_dir.path / "hf").is_dir()
    assert output.getvalue() == f"trained learner {recorder.run_dir.path / 'hf'}\n"


def test_close_ends_the_metrics_and_the_bar(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert recorder.console is not None
    ended: list[tuple[Any, ...]] = []
    monkeypatch.setattr(type(recorder.console), "__exit__", lambda self, *error: ended.append(error))
    recorder.close()
    assert ended == [(None, None, None)]
    with pytest.raises(ValueError, match="closed file"):
        recorder.stepped(1, metrics_of(1), groups(), torch.zeros(1, 2), seconds=1.0)


def test_a_run_that_was_cut_off_and_resumed(tmp_path: Path, stop: StopRequest, plotted: list[RunDir]) -> None:
    """Seconds, metrics and the summary of two parts are those of one run. The learner learns between 0 and 2."""
    algorithm = AlgorithmConfig(
        steps=2, prompts_per_step=1, group_size=2, kl_coef=0.0, schedule=ScheduleConfig(name="none")
    )
    settings: dict[str, Any] = {
        "train": prompts(5, 6),
        "valid": prompts(100, 101),
        "validation": ValidationConfig(every=0, samples=1),
        "checkpoint": CheckpointConfig(every=1),
    }

    def wrong(_: SampleRequest) -> Answer:
        return Answer((0, 2))

    first = make_run(tmp_path, stop, algorithm, by_learner=wrong, **settings)
    stop.signal = 15
    assert first.trainer.fit() == 15
    assert first.recorder.elapsed() == 0.5 + 0.75 + 1.5  # refit, validation, step
    first.recorder.close()
    stop.signal = 0
    checkpoint = latest_checkpoint(first.run_dir.checkpoints)
    assert checkpoint is not None
    state = first.actor.load(checkpoint.path)
    second = make_run(
        tmp_path, stop, algorithm, step=state["step"], seconds_before=state["seconds"], resume_step=1, **settings
    )
    assert second.trainer.fit() == 0
    second.recorder.summarize(second.trainer.step)
    assert [line["step"] for line in read_metrics(second.run_dir.metrics)] == [1, 2]
    summary = json.loads(second.run_dir.summary.read_text())
    assert summary["seconds"] == 2 * (0.5 + 0.75 + 1.5)
    assert (summary["pass@1/before"], summary["pass@1/after"], summary["steps"]) == (0.0, 1.0, 2)
    assert plotted == [second.run_dir]
