"""What the lines, bands and places of curves are, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2l_nemo.errors import UserError
from s2l_nemo.measures.crossed import crossed_mean
from s2l_nemo.reproduction.report.cost import seconds_by_phase
from s2l_nemo.reproduction.report.curves import Axis, Band, curves, metric, places, seeds_in_words, validation
from s2l_nemo.reproduction.report.runs import EVALUATED, HELD_OUT, read_study
from s2l_nemo.reproduction.report.sections import sections
from tests.reproduction.report.scripted import (
    result,
    write_evaluation,
    write_plan,
    write_run,
    write_study,
    write_validation,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_study(tmp_path / "root")


def test_the_line_is_the_mean_of_the_seeds_and_the_band_their_range(root: Path) -> None:
    (s2l, *_) = curves(read_study(root).experiments, metric("reward/mean"))
    assert (s2l.name, s2l.seeds, s2l.band) == ("s2l", (1, 2), Band.seeds)
    last = s2l.points[-1]
    assert (last.step, last.x, last.low, last.high) == (3, 3, 0.6, 0.7)
    assert last.mean == pytest.approx(0.65)
    assert last.by_seed == {1: 0.6, 2: 0.7}
    assert seeds_in_words([s2l]) == (
        "s2l: mean of seeds 1, 2, band from the lowest to the highest, which is no interval."
    )


def test_the_band_of_what_problems_were_asked_is_an_interval_over_seeds_and_problems(root: Path) -> None:
    write_validation(root / "s2l/seed_2/validation", 3, [[1, 1], [0, 0]])
    (s2l, grpo) = curves(read_study(root).experiments, validation(HELD_OUT))[:2]
    assert (s2l.band, grpo.band) == (Band.interval, Band.none)
    last = s2l.points[-1]
    assert (last.mean, last.low, last.high) == crossed_mean([[1.0, 0.5], [1.0, 0.0]])
    assert last.by_seed == {1: 0.75, 2: 0.5}
    assert seeds_in_words([s2l]) == "s2l: mean of seeds 1, 2, band: 95 % interval for other seeds and other problems."


@pytest.mark.parametrize(("file", "old", "new"), [
    ("validation/step_000003.json", '"prompt_ids": [0, 1]', '"prompt_ids": [0, 7]'),
    ("config.yaml", "task: sums", "task: words"),
])  # fmt: skip
def test_seeds_that_were_asked_other_problems_have_no_interval(root: Path, file: str, old: str, new: str) -> None:
    path = root / "s2l/seed_2" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert curves(read_study(root).experiments, validation(HELD_OUT))[0].band is Band.seeds


def test_one_seed_is_a_line_without_a_band_and_an_unfinished_run_is_in_no_mean(root: Path) -> None:
    _, finished, unfinished = curves(read_study(root).experiments, metric("reward/mean"))
    assert (finished.seeds, finished.band, finished.is_finished) == ((1,), Band.none, True)
    assert [point.mean for point in finished.points] == [0.2, 0.3, 0.4]
    assert (unfinished.name, unfinished.short_name) == ("grpo, seed 2, unfinished", "grpo (2, unfinished)")
    assert (unfinished.seeds, unfinished.is_finished, unfinished.band) == ((2,), False, Band.none)
    assert [point.mean for point in unfinished.points] == [0.2, 0.9]
    assert seeds_in_words([finished, unfinished]) == (
        "grpo: seed 1 alone, no band; grpo, seed 2, unfinished: dotted, to step 2, in no mean."
    )


def test_a_mean_has_only_steps_that_all_its_seeds_have(tmp_path: Path) -> None:
    write_run(tmp_path / "a/seed_1", rewards=[0.1, 0.2, 0.3])
    write_run(tmp_path / "a/seed_2", rewards=[0.3, 0.4])
    (curve,) = curves(read_study(tmp_path).experiments, metric("reward/mean"))
    assert [(point.step, round(point.mean, 9)) for point in curve.points] == [(1, 0.2), (2, 0.3)]


def test_a_value_that_is_null_is_left_out(root: Path) -> None:
    (curve,) = curves(read_study(root).experiments, metric("rescue/only_explorer"))
    assert [point.step for point in curve.points] == [1, 2]
    assert curves(read_study(root).experiments, metric("nothing")) == []


@pytest.mark.parametrize(
    ("axis", "expected"), [(Axis.steps, 3.0), (Axis.prompts, 24.0), (Axis.tokens, 30.0), (Axis.flops, 300.0)]
)
def test_places_on_each_axis(root: Path, axis: Axis, expected: float) -> None:
    experiments = read_study(root).experiments
    assert places(experiments[0].runs[0], axis)[3] == expected
    (s2l, grpo) = curves(experiments, validation(HELD_OUT), axis)[:2]
    assert [(point.x, point.mean) for point in s2l.points] == [(0.0, 0.25), (expected, 0.75)]
    assert [point.mean for point in grpo.points] == [0.25, 0.25]


def test_a_run_that_did_not_count_has_no_place_there(root: Path) -> None:
    run = read_study(root).experiments[0].runs[0]
    del run.metrics[1]["total/tokens_learner"]
    run.metrics[2]["total/tokens_explorer"] = None
    assert places(run, Axis.tokens) == {0: 0.0, 1: 10.0}


def test_evaluated_checkpoints_are_a_curve_of_their_own(root: Path) -> None:
    run = root / "s2l/seed_1"
    folder = run / "evaluation/result/curve_20260101-120000"
    for step, rows in ((0, [[0, 1]]), (3, [[1, 1]])):
        write_evaluation(run / "evaluation", result("x", "aime24", rows), folder / f"step_{step:06d}")
        (folder / f"step_{step:06d}/summary.json").write_text('{"benchmarks": {"aime24": {}}}')
    (folder / "steps.json").write_text(
        '{"name": "curve", "steps": [{"step": 0, "prompts": 0}, {"step": 3, "prompts": 24}]}'
    )
    study = read_study(root)
    (curve,) = curves(study.experiments, validation(f"aime24{EVALUATED}"), Axis.flops)
    assert [(point.x, point.mean) for point in curve.points] == [(0.0, 0.5), (300.0, 1.0)]
    assert [one.benchmark for one in study.runs[0].evaluations] == ["sums"]  # of the trained model alone
    assert "pass@1, AIME 2024, checkpoints evaluated, over FLOP" in [one.title for one in sections(study)[0].charts]


def test_a_run_has_all_its_jobs(root: Path) -> None:
    write_plan(root, ("s2l", 1, "done"), ("s2l", 1, "failed"), ("explorer", 0, "done"))
    study = read_study(root)
    assert [job.status for job in study.runs[0].jobs] == ["done", "failed"]
    assert [experiment.name for experiment in study.experiments] == ["s2l", "grpo"]


def test_seconds_of_a_step(root: Path) -> None:
    spent = seconds_by_phase(read_study(root).experiments[0].runs[0])
    named = {phase: seconds for phase, seconds in spent.items() if seconds}
    assert named == {"learner rollouts": 1.0, "update": 2.0, "other": 1.0, "validation": 0.5}


def test_a_single_run_is_an_experiment_of_its_own_seed(tmp_path: Path) -> None:
    write_run(tmp_path / "tiny", rewards=[0.5])
    study = read_study(tmp_path / "tiny")
    assert [(one.name, [run.seed for run in one.runs]) for one in study.experiments] == [("tiny", [7])]


def test_an_extended_run_is_not_finished(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a/seed_1", rewards=[0.5], planned=2)
    (run / "summary.json").write_text('{"steps": 1}')  # of before it was extended
    assert not read_study(tmp_path).runs[0].is_finished


def test_experiments_come_in_the_order_of_the_plan(root: Path) -> None:
    assert [one.name for one in read_study(root).experiments] == ["s2l", "grpo"]
    (root / "plan.json").unlink()
    assert [one.name for one in read_study(root).experiments] == ["grpo", "s2l"]


def test_all_samplers_are_found(root: Path) -> None:
    study = read_study(root)
    study.runs[0].metrics[0]["pass@G/cold"] = 0.5
    assert study.sources == ["explorer", "learner", "cold"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("s2l/seed_1/validation/step_000003.json", "{", "step_000003.json cannot be read as JSON"),
        (
            "s2l/seed_1/validation/step_000003.json",
            '{"prompt_ids": [1, 2], "correct": [[1], []]}',
            "has not one list of rewards, all of one length, for each prompt",
        ),
        ("s2l/seed_1/summary.json", "[]", "is no JSON object"),
        ("s2l/seed_1/config.yaml", "a: [", "config.yaml is damaged"),
        ("s2l/seed_1/config.yaml", "run: {seed: [1]}", r"has run\.seed=\[1\], which is no int"),
        ("s2l/seed_1/config.yaml", "model: {path: {a: 1}}", r"has model\.path=\{'a': 1\}, which is no str"),
        ("plan.json", '{"jobs": [{"seed": 1}]}', "is no plan of the runner"),
        ("plan.json", '{"jobs": ["s2l"]}', "is no plan of the runner"),
        (
            "plan.json",
            '{"jobs": [{"experiment": "a", "seed": Infinity, "status": "done"}]}',
            "is no plan of the runner",
        ),
        (
            "plan.json",
            '{"jobs": [{"experiment": "a", "seed": 1, "status": "done", "seconds": []}]}',
            "is no plan of the",
        ),
    ],
)
def test_a_damaged_file_is_named(root: Path, file: str, content: str, message: str) -> None:
    (root / file).write_text(content)
    with pytest.raises(UserError, match=message) as error:
        read_study(root)
    assert "\n" not in str(error.value)


def test_a_run_whose_section_is_a_list_has_no_settings(root: Path) -> None:
    (root / "s2l/seed_1/config.yaml").write_text("run: [1]\n")
    (experiment,) = read_study(root / "s2l/seed_1").experiments
    assert experiment.runs[0].seed == 0


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        read_study(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        read_study(tmp_path / "missing")
