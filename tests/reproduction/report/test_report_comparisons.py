"""The tables of the paper: its own figures, and when a difference to them may be printed."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.errors import UserError
from s2l_nemo.measures.crossed import crossed_mean
from s2l_nemo.measures.statistics import Interval, bootstrap_mean
from s2l_nemo.reproduction.report.comparisons import OwnRow, Row, own_rows, rows_of
from s2l_nemo.reproduction.report.diversity import model_rows, training_rows
from s2l_nemo.reproduction.report.paper import TABLE_1, TABLE_3, TABLE_4, TABLES
from s2l_nemo.reproduction.report.pass_at_k import all_pass_at_k
from s2l_nemo.reproduction.report.runs import read_study
from tests.reproduction.report.scripted import result, write_evaluation, write_run, write_study, write_validation

FULL = {"steps": 16, "prompts_per_step": 1024, "group_size": 16}


def full(root: Path, experiment: str, seed: int, rows: list[list[int]], **changed: Any) -> Path:
    """A finished run of the paper's size with an evaluation on AIME 2024."""
    explorer = None if experiment == "grpo" else "models/Qwen3-1.7B-Base"
    config: dict[str, Any] = {
        "model": {"path": "Qwen/Qwen3-8B-Base@abc"},
        "explorer": {"path": explorer},
        "algorithm": {**FULL, **changed.pop("algorithm", {})},
    }
    config |= {key: changed.pop(key) for key in ("model", "explorer") if key in changed}
    steps = config["algorithm"]["steps"]
    run = write_run(root / experiment / f"seed_{seed}", rewards=[0.5] * int(steps or 1), config=config)
    write_evaluation(run / "evaluation", result("trained", "aime24", rows, **changed))
    return run


def aime24(root: Path) -> Row:
    return rows_of(TABLE_1, read_study(root))[0]


def test_the_paper_computes_its_differences_but_for_one_slip() -> None:
    slips = {
        (table.number, comparison.label, benchmark): (figures.printed, figures.difference)
        for table in TABLES
        for comparison in table.comparisons
        for benchmark, figures in comparison.figures.items()
        if figures.printed not in (None, figures.difference)
    }
    assert slips == {("Table 1", "Qwen3, 1.7B→8B", "olympiadbench"): (1.7, 1.6)}


def test_the_slip_is_named(tmp_path: Path) -> None:
    rows = rows_of(TABLE_1, read_study(write_study(tmp_path / "root")))
    assert [row.slip for row in rows if row.slip] == ["the paper prints +1.7, its own values give +1.6"]
    assert rows[3].paper == (18.1, 19.7, 1.6)


def test_table_3_is_monotonic_as_the_paper_says() -> None:
    for better, worse in pairwise(TABLE_3):
        assert better.self_bleu < worse.self_bleu
        assert better.edit > worse.edit
        assert better.unique > worse.unique


def test_tables_1_and_4_agree_where_they_share_runs() -> None:
    first, fourth = TABLE_1.comparisons[0], TABLE_4.comparisons[0]
    for benchmark, figures in fourth.figures.items():
        assert figures[:2] == first.figures[benchmark][:2]


def test_a_full_run_is_compared_and_every_figure_is_computed(tmp_path: Path) -> None:
    full(tmp_path, "grpo", 1, [[1, 0, 0, 0], [0, 0, 0, 0]])
    full(tmp_path, "grpo", 2, [[0, 0, 0, 0], [1, 0, 0, 0]])
    full(tmp_path, "grpo", 4, [[1, 1, 1, 1], [1, 1, 1, 1]])
    full(tmp_path, "s2l", 1, [[1, 1, 1, 0], [1, 0, 0, 0]])
    full(tmp_path, "s2l", 2, [[1, 1, 1, 1], [1, 1, 0, 0]])
    full(tmp_path, "s2l", 3, [[1, 1, 1, 1], [1, 1, 1, 1]])
    row = aime24(tmp_path)
    assert (row.why_not, row.paper) == ("", (15.0, 23.8, 8.8))
    assert row.ours is not None
    assert row.away is not None
    # Of seeds 1 and 2 alone. grpo: 25, 0 and 0, 25 percent; s2l: 75, 25 and 100, 50; gains: 50, 25 and 100, 25.
    assert (row.ours.baseline, row.ours.treated) == (12.5, 62.5)
    assert row.ours.difference == crossed_mean([[50, 25], [100, 25]])
    assert row.ours.difference.mean == 50
    assert row.ours.by_seed == {1: 37.5, 2: 62.5}
    assert (row.ours.problems, row.ours.left_out) == (2, (3, 4))
    assert row.away == pytest.approx(Interval(*(end - 8.8 for end in row.ours.difference)))


def test_seeds_that_differ_widen_the_interval(tmp_path: Path) -> None:
    """Over problems alone both would have the same interval: the means over seeds are equal."""
    for name, gains in (("alike", (2, 2, 2)), ("apart", (0, 2, 4))):
        for seed, right in enumerate(gains, start=1):
            full(tmp_path / name, "grpo", seed, [[0, 0, 0, 0]] * 6)
            full(tmp_path / name, "s2l", seed, [[1] * right + [0] * (4 - right)] * 5 + [[1, 0, 0, 0]])
    alike, apart = (aime24(tmp_path / name).ours for name in ("alike", "apart"))
    assert alike is not None
    assert apart is not None
    assert alike.difference.mean == apart.difference.mean
    assert apart.difference.high - apart.difference.low > 4 * (alike.difference.high - alike.difference.low)


def test_one_seed_has_the_bootstrap_over_problems(tmp_path: Path) -> None:
    full(tmp_path, "grpo", 1, [[1, 0], [0, 0], [1, 0]])
    full(tmp_path, "s2l", 1, [[1, 1], [0, 0], [0, 0]])
    ours = aime24(tmp_path).ours
    assert ours is not None
    assert ours.difference == bootstrap_mean([[50.0], [0.0], [-50.0]])


def test_other_seeds_are_not_paired(tmp_path: Path) -> None:
    full(tmp_path, "grpo", 1, [[1, 0], [0, 0]])
    full(tmp_path, "s2l", 2, [[1, 0], [0, 0]])
    row = aime24(tmp_path)
    assert (row.ours, row.away, row.why_not) == (None, None, "not compared: the two have no seed in common")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"model": {"path": "models/tiny/learner"}}, "s2l has model.path=learner, the paper Qwen3-8B-Base"),
        ({"explorer": {"path": "x/Qwen3-4B-Base"}}, "s2l has explorer.path=qwen3-4b-base, the paper Qwen3-1.7B-Base"),
        ({"explorer": {"path": None}}, "s2l has explorer.path=none, the paper Qwen3-1.7B-Base"),
        ({"algorithm": {"steps": 2}}, "s2l has algorithm.steps=2, the paper 16"),
        ({"algorithm": {"prompts_per_step": 8}}, "s2l has algorithm.prompts_per_step=8, the paper 1024"),
        ({"mode": "think"}, "evaluated in mode think, the paper in nothink"),
        ({"mode": None}, "evaluated in mode unknown, the paper in nothink"),
        ({"subset": "2 of 30"}, "only 2 of 30 of the problems"),
    ],
)
def test_what_differs_from_the_paper_is_named_and_no_difference_printed(
    tmp_path: Path, changed: dict[str, Any], reason: str
) -> None:
    full(tmp_path, "grpo", 1, [[1, 0], [0, 0]], **({"mode": None} if changed == {"mode": None} else {}))
    full(tmp_path, "s2l", 1, [[1, 0], [0, 0]], **changed)
    row = aime24(tmp_path)
    assert row.ours is not None
    assert (row.away, row.why_not) == (None, f"not comparable: {reason}")


def test_other_problems_are_not_paired(tmp_path: Path) -> None:
    full(tmp_path, "grpo", 1, [[1, 0], [0, 0]])
    full(tmp_path, "s2l", 1, [[1, 0], [0, 0]], ids=[3, 4])
    row = aime24(tmp_path)
    assert (row.ours, row.away, row.why_not) == (None, None, "not compared: the two were asked different problems")


def test_a_run_that_is_not_finished_is_not_compared(tmp_path: Path) -> None:
    full(tmp_path, "grpo", 1, [[1, 0], [0, 0]])
    run = full(tmp_path, "s2l", 1, [[1, 0], [0, 0]])
    (run / "summary.json").unlink()
    assert (aime24(tmp_path).ours, aime24(tmp_path).why_not) == (None, "not run")


def test_at_toy_size_the_pairs_stand_apart_from_the_paper(tmp_path: Path) -> None:
    study = read_study(write_study(tmp_path / "root"))
    assert {row.why_not for table in TABLES for row in rows_of(table, study)} == {"not run"}
    (own,) = own_rows(TABLES, study)  # of Tables 1, 2 and 4, once
    assert (own.baseline, own.treated, own.benchmark) == ("grpo", "s2l", "held-out prompts of these runs")
    assert (own.ours.baseline, own.ours.treated, own.ours.by_seed) == (25.0, 75.0, {1: 50.0})  # seed 2 goes on


def test_validations_of_other_data_are_not_paired(tmp_path: Path) -> None:
    root = write_study(tmp_path / "root")
    config = root / "s2l/seed_1/config.yaml"
    config.write_text(config.read_text().replace("task: sums", "task: words"))
    assert own_rows(TABLES, read_study(root)) == []


def test_a_benchmark_of_a_validation_is_no_evaluation(tmp_path: Path) -> None:
    for name in ("grpo", "s2l"):
        run = full(tmp_path, name, 1, [[1, 0], [0, 0]])
        (run / "evaluation/result/trained_20260101-120000/aime24.json").unlink()
        (run / "validation").mkdir()
        write_validation(run / "validation" / "aime24", 16, [[1.0, 0.0]])
    assert aime24(tmp_path).why_not == "not run"
    found: list[OwnRow] = own_rows(TABLES, read_study(tmp_path))
    assert [row.benchmark for row in found] == ["AIME 2024, as validated in training"]


def test_pass_at_k_averages_seeds_for_each_problem(tmp_path: Path) -> None:
    for seed, rows in ((1, [[1, 0, 0, 0]]), (2, [[1, 1, 0, 0]])):
        full(tmp_path, "s2l", seed, rows)
    write_evaluation(tmp_path / "evaluation", result("explorer", "aime24", [[1, 1, 1, 1]]))
    s2l, explorer = all_pass_at_k(read_study(tmp_path))
    assert (s2l.name, s2l.seeds, s2l.problems) == ("s2l", (1, 2), 1)
    means = {k: interval.mean for k, interval in s2l.by_k.items()}
    assert means == pytest.approx({1: 3 / 8, 2: (1 / 2 + 5 / 6) / 2, 3: (3 / 4 + 1) / 2, 4: 1.0})
    assert (explorer.name, explorer.seeds) == ("explorer", ())


def test_seeds_with_other_problems_have_no_common_curve(tmp_path: Path) -> None:
    full(tmp_path, "s2l", 1, [[1, 0]])
    full(tmp_path, "s2l", 2, [[1, 0]], ids=[9])
    with pytest.raises(UserError, match="s2l, seed 2: aime24 has other problems"):
        all_pass_at_k(read_study(tmp_path))


def test_diversity_in_training_is_the_mean_over_steps_with_an_interval_over_seeds(tmp_path: Path) -> None:
    write_run(tmp_path / "a/seed_1", rewards=[0.5, 0.5])
    write_run(tmp_path / "a/seed_2", rewards=[0.5] * 4)
    write_run(tmp_path / "a/seed_3", rewards=[0.5] * 9, planned=20)  # not finished: not counted
    (row,) = training_rows(read_study(tmp_path))
    assert (row.source, row.seeds) == ("learner", (1, 2))
    assert row.by_metric["edit"] == crossed_mean([[(0.1 + 0.2) / 2], [(0.1 + 0.2 + 0.1 * 3 + 0.4) / 4]])
    assert row.by_metric["self_bleu"] is None


def write_diversity(root: Path, **changed: Any) -> None:
    interval = {"mean": 0.3, "low": 0.2, "high": 0.4}
    known = {"name": "Qwen3-8B-Base", "benchmark": "aime24", "problems": 30, "samples": 64}
    model = known | {"self_bleu": interval, "edit": interval, "unique": interval} | changed
    (root / "diversity").mkdir()
    (root / "diversity/diversity.json").write_text(json.dumps({"models": [model]}))


def test_table_3_beside_ours(tmp_path: Path) -> None:
    write_run(tmp_path / "a/seed_1", rewards=[0.5])
    write_diversity(tmp_path)
    rows = model_rows(read_study(tmp_path))
    assert len(rows) == 12
    (bleu,) = [row for row in rows if row.ours and row.metric.startswith("Self")]
    assert (bleu.model, bleu.paper) == ("Qwen3-8B-Base", 0.336)
    assert bleu.away == pytest.approx(Interval(-0.036, -0.136, 0.064))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"samples": 8}, "not comparable: measured on aime24, K = 8"),
        ({"benchmark": "sums"}, "not comparable: measured on sums, K = 64"),
        ({"name": "explorer"}, "not comparable: the paper did not measure this model on these problems"),
    ],
)
def test_other_samples_are_not_compared_with_table_3(tmp_path: Path, changed: dict[str, Any], reason: str) -> None:
    write_run(tmp_path / "a/seed_1", rewards=[0.5])
    write_diversity(tmp_path, **changed)
    ours = [row for row in model_rows(read_study(tmp_path)) if row.ours]
    assert len(ours) == 3
    assert {(row.away, row.why_not) for row in ours} == {(None, reason)}


@pytest.mark.parametrize("edit", [None, {"mean": "a", "low": 0.1, "high": 0.2}])
def test_a_damaged_diversity_file_is_named(tmp_path: Path, edit: Any) -> None:
    write_run(tmp_path / "a/seed_1", rewards=[0.5])
    write_diversity(tmp_path, edit=edit)
    with pytest.raises(UserError, match=r"diversity\.json is not as recipes/diversity\.py writes it"):
        model_rows(read_study(tmp_path))
