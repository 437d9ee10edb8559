"""Step curves: what is drawn of them, how runs are compared, and files that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from s2l_nemo.errors import UserError
from s2l_nemo.evaluation.curve_plots import Axis, plot_steps
from s2l_nemo.evaluation.steps import (
    CurvePoint,
    StepCurve,
    load_curves,
    prompts_asked,
    read_curve,
    shared_steps,
    write_curve,
)
from tests.commands import run_here
from tests.evaluation.test_compare_results import content, write
from tests.evaluation.test_evaluation_plots import drawn, result, size
from tests.figures import legend_texts, points

__all__ = ["drawn"]  # a fixture


def curve(
    name: str, means: dict[int, float], *, batch: int = 32, benchmarks: tuple[str, ...] = ("aime24",)
) -> StepCurve:
    found = [
        CurvePoint(step, step * batch, {one: result(name, one, {1: mean}) for one in benchmarks})
        for step, mean in means.items()
    ]
    return StepCurve(name, found)


def test_lines_are_percent_over_steps_and_over_prompts(tmp_path: Path, drawn: list[Figure]) -> None:
    curves = [curve("s2l", {0: 0.2, 4: 0.5}), curve("grpo", {0: 0.2, 2: 0.3, 4: 0.4}, batch=8)]
    plot_steps(curves, Axis.steps, tmp_path / "steps.png")
    plot_steps(curves, Axis.prompts, tmp_path / "prompts.png")
    for figure, places in zip(drawn, ([[0, 4], [0, 2, 4]], [[0, 128], [0, 16, 32]]), strict=True):
        (axes,) = figure.axes
        low, high, mean, *_, other = axes.lines
        assert [[x for x, _ in points(line)] for line in (mean, other)] == places
        assert [y for _, y in points(mean)] == pytest.approx([20, 50])
        assert [y for _, y in points(low)] == pytest.approx([10, 40])
        assert [y for _, y in points(high)] == pytest.approx([25, 55])
        (legend,) = figure.legends
        assert legend_texts(legend) == ["s2l", "grpo"]
        assert axes.get_title(loc="right") == "30 x 1"
    size(tmp_path / "steps.png")
    assert drawn[0].axes[0].get_xlabel() == "training step"
    assert drawn[1].axes[0].get_xlabel() == "prompts seen"


def test_a_panel_for_each_benchmark_and_runs_that_lack_one(tmp_path: Path, drawn: list[Figure]) -> None:
    names = ("aime24", "aime25", "math500", "olympiadbench", "own")
    plot_steps([curve("a", {0: 0.1, 1: 0.2}, benchmarks=names), curve("b", {1: 0.3})], Axis.steps, tmp_path / "c.png")
    panels = [axes for axes in drawn[0].axes if axes.lines]
    assert [len(axes.lines) for axes in panels] == [6, 3, 3, 3, 3]
    assert [axes.get_title(loc="left") for axes in panels][:2] == ["AIME 2024", "AIME 2025"]


def folder_of(path: Path, name: str, steps: dict[int, list[list[int]]]) -> Path:
    for step, correct_PK in steps.items():
        write(path / f"step_{step:06d}", content(correct_PK, name=name))
        (path / f"step_{step:06d}" / "summary.json").write_text('{"benchmarks": {"aime24": {}}}')
    write_curve(path, name, lambda step: 10 * step)
    return path


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run", "run", {20: [[1]], 3: [[0]]})
    (folder / "step_000030").mkdir()  # not finished
    write_curve(folder, "run", lambda step: 10 * step)
    found = read_curve(folder)
    assert [(one.step, one.prompts, one.results["aime24"].pass_at_1.mean) for one in found.points] == [
        (3, 30, 0.0),
        (20, 200, 1.0),
    ]
    assert json.loads((folder / "steps.json").read_text()) == {
        "name": "run",
        "steps": [{"step": 3, "prompts": 30}, {"step": 20, "prompts": 200}],
    }


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"name": "a", "steps": [3]}', '{"name": "a", "steps": [{"step": 1}]}']
)
def test_damaged_steps(tmp_path: Path, text: str) -> None:
    folder = folder_of(tmp_path / "run", "run", {1: [[1]]})
    (folder / "steps.json").write_text(text)
    with pytest.raises(UserError, match=r"steps.json .*: evaluate the run again"):
        read_curve(folder)


def test_runs_are_compared_at_the_steps_that_they_share(tmp_path: Path) -> None:
    first = folder_of(tmp_path / "a", "run", {0: [[0, 0]] * 5, 2: [[0, 1]] * 5, 4: [[1, 1]] * 5})
    second = folder_of(tmp_path / "b", "run", {0: [[0, 0]] * 5, 4: [[0, 1]] * 5, 6: [[1, 1]] * 5})
    curves = load_curves([first, second])
    assert [one.name for one in curves] == [str(first), str(second)]
    assert [(one.step, other.step) for one, other in shared_steps(*curves)] == [(0, 0), (4, 4)]
    done = run_here("tools/compare_results.py", first, second, "--plot", tmp_path / "both.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert "-50.0 (-50.0 to -50.0)" in done.stdout
    assert done.stdout.count("step ") == 2
    size(tmp_path / "both.png")
    size(tmp_path / "both_over_prompts.png")
    model = write(tmp_path / "model", content([[1, 1]] * 5))
    mixed = run_here("tools/compare_results.py", first, model)
    assert mixed.returncode == 2
    assert f"{model} has no steps.json" in mixed.stderr


def test_prompts_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("algorithm: {prompts_per_step: 8}")
    lines = [{"step": 1, "total/prompts": 11}, {"step": 2, "total/prompts": 19.0}, {"step": 3}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert list(map(prompts_asked(tmp_path), range(5))) == [0, 11, 19, 24, 32]  # the last step left no line


def test_names_are_the_runs_own_where_they_differ(tmp_path: Path) -> None:
    paths = [folder_of(tmp_path / name, name, {1: [[1]]}) for name in ("a", "b")]
    assert [one.name for one in load_curves(paths)] == ["a", "b"]
