from __future__ import annotations

import math
from pathlib import Path

import matplotlib.image
import pytest
from matplotlib.figure import Figure

from s2l_nemo.records import plots
from s2l_nemo.records.directory import RunDir
from s2l_nemo.records.metrics import MetricsWriter, Value, read_metrics
from tests.figures import legend_texts, points
from tests.records.conftest import MetricsOf

NAMES = ["optimization", "pass_at_1", "response_length", "reward", "schedule", "step_time"]


def validation(mean: float) -> dict[str, Value]:
    return {"validation/pass@1": mean, "validation/pass@1_low": mean - 0.1, "validation/pass@1_high": mean + 0.1}


@pytest.fixture
def run_dir(tmp_path: Path, metrics_of: MetricsOf) -> RunDir:
    run_dir = RunDir(tmp_path)
    with MetricsWriter(run_dir) as writer:
        for step in range(1, 6):
            writer.write(step, metrics_of(step) | (validation(0.7) if step == 4 else {}))
    return run_dir


def series(run_dir: RunDir, **summary: float) -> plots._Series:
    return plots._Series(read_metrics(run_dir.metrics), summary)


def test_all_plots_are_drawn_without_a_summary(run_dir: RunDir) -> None:
    paths = plots.plot_run(run_dir)
    assert sorted(path.stem for path in paths) == NAMES
    assert sorted(run_dir.plots.iterdir()) == sorted(paths)
    for path in paths:
        image = matplotlib.image.imread(path)
        assert image.shape[1] == 1080
        assert image.std() > 0.05  # not blank


def test_nothing_to_draw_before_the_first_step(tmp_path: Path) -> None:
    assert plots.plot_run(RunDir(tmp_path)) == []


def test_null_is_a_gap(run_dir: RunDir) -> None:
    figure = Figure()
    plots._reward(figure, series(run_dir))
    lines = {line.get_label(): [y for _, y in points(line)] for line in figure.axes[0].lines}
    assert [math.isnan(value) for value in lines["learner"]] == [True, False, False, False, False]
    assert [math.isnan(value) for value in lines["explorer"]] == [False, False, False, True, True]


def test_validation_before_and_after_come_from_the_summary(run_dir: RunDir) -> None:
    summary = {"pass@1/before": 0.5, "pass@1/after": 0.9, "pass@1/before_low": 0.4}
    figure = Figure()
    plots._pass_at_1(figure, series(run_dir, **summary))
    (line,) = figure.axes[0].lines
    assert points(line) == [(0, 0.5), (4, 0.7), (5, 0.9)]


def test_a_run_over_what_it_has_computed(run_dir: RunDir) -> None:
    lines = [{**line, "total/flops": 10.0 * line["step"]} for line in read_metrics(run_dir.metrics)]
    figure = Figure()
    plots._over_flops(figure, plots._Series(lines, {"pass@1/before": 0.5, "pass@1/after": 0.9}))
    reward, right = figure.axes
    assert [points(line)[0][0] for line in reward.lines] == [10, 10]
    (line,) = right.lines
    assert points(line) == [(0, 0.5), (40, 0.7), (50, 0.9)]


def test_a_run_that_has_counted_its_flop_has_one_picture_more(tmp_path: Path, metrics_of: MetricsOf) -> None:
    run_dir = RunDir(tmp_path)
    with MetricsWriter(run_dir) as writer:
        writer.write(1, {**metrics_of(1), "total/flops": 5.0})
    assert {path.stem for path in plots.plot_run(run_dir)} == {*NAMES, "over_flops"}


def test_phases_and_the_rest_stack_to_the_step_time(run_dir: RunDir) -> None:
    figure = Figure()
    plots._step_time(figure, series(run_dir))
    tops = [bar.get_y() + bar.get_height() for bar in figure.axes[0].containers[-1]]
    assert tops == pytest.approx([12.34] * 5)


def test_a_run_without_explorer_does_not_name_it(tmp_path: Path, metrics_of: MetricsOf) -> None:
    run_dir = RunDir(tmp_path)
    with MetricsWriter(run_dir) as writer:
        writer.write(9, metrics_of(9))
    figure = Figure()
    plots._reward(figure, series(run_dir))
    assert legend_texts(figure.axes[0].get_legend()) == ["whole group", "learner"]


def test_several_explorers_go_by_name(run_dir: RunDir) -> None:
    lines = [
        {**line, "pass@G/learner": 1.0, "pass@G/explorer": 1.0, "pass@G/small": 1.0, "pass@G/hot": 1.0}
        | {"reward/small": 0.25, "reward/hot": 0.5, "group/small": 1.0, "group/hot": 2.0}
        for line in read_metrics(run_dir.metrics)
    ]
    reward, schedule = Figure(), Figure()
    plots._reward(reward, plots._Series(lines, {}))
    assert [line.get_label() for line in reward.axes[0].lines] == [
        "whole group", "explorer", "learner", "small", "hot",
    ]  # fmt: skip
    plots._schedule(schedule, plots._Series(lines, {}))
    assert [text.get_text() for text in schedule.legends[0].get_texts()] == ["small", "hot", "learner ($G_s$)"]


def test_benchmarks_of_validations_have_lines_of_their_own(tmp_path: Path, metrics_of: MetricsOf) -> None:
    run_dir = RunDir(tmp_path)
    with MetricsWriter(run_dir) as writer:
        for step in range(1, 5):
            found = {2: 0.25, 4: 0.75}.get(step)
            own = {"validation/pass@1": found, "validation/aime24/pass@1": found, "validation/aime24/pass@4": 1.0}
            writer.write(step, {**metrics_of(step), **own, "validation/never/pass@1": None})
    figure = Figure()
    plots._pass_at_1(figure, series(run_dir, **{"aime24/pass@1/before": 0.125}))
    lines = {line.get_label(): points(line) for line in figure.axes[0].lines}
    assert lines == {"learner": [(2, 0.25), (4, 0.75)], "aime24": [(0, 0.125), (2, 0.25), (4, 0.75)]}
