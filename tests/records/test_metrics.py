from __future__ import annotations

import json
import math
import sys
import types
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from s2l_nemo.config.schema import WandbMode
from s2l_nemo.errors import UserError
from s2l_nemo.records.directory import RunDir
from s2l_nemo.records.metrics import MetricsWriter, Value, read_metrics
from tests.records.conftest import MetricsOf


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def steps(run_dir: RunDir) -> list[Value]:
    return [values["step"] for values in read_metrics(run_dir.metrics)]


def test_lines_are_there_at_once_and_keep_null(run_dir: RunDir, metrics_of: MetricsOf) -> None:
    with MetricsWriter(run_dir) as writer:
        writer.write(1, metrics_of(1))
        assert read_metrics(run_dir.metrics) == [{"step": 1, **metrics_of(1)}]
    assert '"reward/learner": null' in run_dir.metrics.read_text()


def test_nan_and_infinity_become_null_with_a_warning(
    run_dir: RunDir, metrics_of: MetricsOf, caplog: pytest.LogCaptureFixture
) -> None:
    with MetricsWriter(run_dir) as writer:
        writer.write(1, metrics_of(1) | {"loss": math.nan, "kl": math.inf})
    (line,) = run_dir.metrics.read_text().splitlines()
    values = json.loads(line, parse_constant=pytest.fail)
    assert values["loss"] is None
    assert values["kl"] is None
    assert "step 1: loss is nan" in caplog.text


def test_a_missing_key_is_refused_and_nothing_is_written(run_dir: RunDir, metrics_of: MetricsOf) -> None:
    values = metrics_of(1)
    del values["grad_norm"]
    with MetricsWriter(run_dir) as writer:
        with pytest.raises(ValueError, match="lack grad_norm"):
            writer.write(1, values)
        assert steps(run_dir) == []


def test_steps_must_increase(run_dir: RunDir, metrics_of: MetricsOf) -> None:
    with MetricsWriter(run_dir) as writer:
        writer.write(2, metrics_of(2))
        with pytest.raises(ValueError, match="after"):
            writer.write(2, metrics_of(2))


def test_resume_drops_later_steps_and_a_torn_line(
    run_dir: RunDir, metrics_of: MetricsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Event files of one process and second are read in the order of their number, and 10 sorts before 9.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))
    with MetricsWriter(run_dir) as writer:
        for step in (1, 2, 3):
            writer.write(step, metrics_of(step))
    with run_dir.metrics.open("a") as file:
        file.write('{"step": 4, "lo')
    assert steps(run_dir) == [1, 2, 3]
    with MetricsWriter(run_dir, resume_step=2) as writer:
        assert steps(run_dir) == [1, 2]
        writer.write(3, metrics_of(3) | {"loss": 9.0})
    assert steps(run_dir) == [1, 2, 3]
    events = EventAccumulator(str(run_dir.tensorboard)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")][-1] == (3, 9.0)
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]
    assert [event.step for event in events.Scalars("reward/learner")] == [2, 3]  # null at step 1


def test_a_new_run_does_not_append(run_dir: RunDir) -> None:
    run_dir.metrics.write_text('{"step": 1}\n')
    MetricsWriter(run_dir).close()
    assert steps(run_dir) == []


def test_a_bad_line_in_the_middle_is_named(run_dir: RunDir) -> None:
    run_dir.metrics.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(UserError, match="line 2"):
        read_metrics(run_dir.metrics)


@pytest.mark.parametrize("value", ["1e101", "1" + "0" * 400, "-1e400", "NaN", "true"])
def test_a_value_with_which_nothing_can_be_computed_is_named(run_dir: RunDir, value: str) -> None:
    run_dir.metrics.write_text(f'{{"step": 1, "loss": {value}}}\n')
    with pytest.raises(UserError, match="line 1 has no step, or a value that is no number; remove that line"):
        read_metrics(run_dir.metrics)


def test_wandb_missing_names_the_fix(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # makes the import fail
    with pytest.raises(UserError, match="pip install wandb"):
        MetricsWriter(run_dir, wandb_project="demo")


class ScriptedWandb(types.ModuleType):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.ids: list[str] = []
        self.logged: list[dict[str, Value]] = []
        self.finished = 0

    def init(self, *, id: str, **settings: object) -> ScriptedWandb:
        self.ids.append(id)
        self.settings = settings
        return self

    def define_metric(self, name: str, *, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "step")

    def log(self, values: dict[str, Value]) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.finished += 1


def test_wandb_gets_values_without_nulls_and_one_run_across_resumes(
    run_dir: RunDir, metrics_of: MetricsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = ScriptedWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for step, resume_step in ((1, None), (2, 1)):
        with MetricsWriter(
            run_dir, wandb_project="demo", wandb_mode=WandbMode.offline, resume_step=resume_step
        ) as writer:
            writer.write(step, metrics_of(step))
    assert len(set(wandb.ids)) == 1
    assert (wandb.settings["project"], wandb.settings["mode"], wandb.finished) == ("demo", "offline", 2)
    assert wandb.logged[0]["step"] == 1
    assert "reward/learner" not in wandb.logged[0]
