"""The rule: verdicts by hand, what cannot be compared, and how often it errs where the truth is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from s2l_nemo.config.reproduction import Scale
from s2l_nemo.measures.crossed import crossed_mean
from s2l_nemo.measures.statistics import Interval
from s2l_nemo.reproduction.claims import CLAIMS, POINT, Claim, Expected, Side, Verdict
from s2l_nemo.reproduction.experiments import EXPERIMENTS
from s2l_nemo.reproduction.judging import judge_root
from s2l_nemo.reproduction.outcomes import Metric, Stage
from s2l_nemo.reproduction.verdicts import OF_MODELS, Judged, decide, judge, judge_all
from tests.reproduction.runs import write_evaluation, write_model, write_run

YES, NO, OPEN = Verdict.reproduced, Verdict.not_reproduced, Verdict.undecided
CLAIM = Claim("c", "A beats B.", "here", Side("a"), Side("b"), bound=0.1)
FLOPS = replace(CLAIM, metric=Metric.rollout_flops)
SEEDS = {"a": {1, 2, 3}, "b": {1, 2, 3}}


def judged(root: Path, claim: Claim = CLAIM, scale: Scale = Scale.toy, **seeds: set[int]) -> Judged:
    return judge(claim, root, scale, SEEDS | seeds)


@pytest.mark.parametrize(
    ("low", "high", "more", "no_more", "no_less", "same"),
    [
        (0.11, 0.3, YES, NO, YES, NO),  # wholly above the bound
        (0.05, 0.3, OPEN, OPEN, YES, OPEN),  # around the bound
        (-0.05, 0.05, NO, YES, YES, YES),  # equal
        (-0.3, 0.05, NO, YES, OPEN, OPEN),
        (-0.3, -0.2, NO, YES, NO, NO),  # the other sign
        (-0.3, 0.3, OPEN, OPEN, OPEN, OPEN),
        (0.1, 0.3, OPEN, NO, YES, NO),  # an end on the bound is not above it
        (-0.3, 0.1, NO, OPEN, OPEN, OPEN),
        (0.2, 0.2, OPEN, OPEN, OPEN, OPEN),  # no width
    ],
)
def test_where_the_interval_lies_decides(
    low: float, high: float, more: Verdict, no_more: Verdict, no_less: Verdict, same: Verdict
) -> None:
    found = [decide(Interval((low + high) / 2, low, high), expected, 0.1) for expected in Expected]
    assert found == [more, no_more, no_less, same]


def test_without_an_interval_nothing_is_decided() -> None:
    assert {decide(None, expected, 0.1) for expected in Expected} == {OPEN}


@given(st.floats(-1, 1), st.floats(0.001, 1), st.floats(0.001, 0.5))
def test_more_and_no_more_never_agree(low: float, width: float, bound: float) -> None:
    interval = Interval(low, low, low + width)
    assume(bound not in interval)
    opposite = {YES: NO, NO: YES, OPEN: OPEN}
    assert decide(interval, Expected.no_more, bound) is opposite[decide(interval, Expected.more, bound)]
    if decide(interval, Expected.same, bound) is YES:
        assert decide(interval, Expected.more, bound) is NO


def test_three_seeds_by_hand(tmp_path: Path) -> None:
    # Differences of two problems: (0.5, 0.5), (0.5, 0.75), (0.75, 0.75).
    rates_a = {1: ([1, 1, 0, 0], [1, 1, 1, 0]), 2: ([1, 1, 0, 0], [1, 1, 1, 1]), 3: ([1, 1, 1, 0], [1, 1, 1, 1])}
    rates_b = {1: ([0] * 4, [1, 0, 0, 0]), 2: ([0] * 4, [1, 0, 0, 0]), 3: ([0] * 4, [1, 0, 0, 0])}
    for seed in (1, 2, 3):
        write_run(tmp_path, "a", seed, {0: [[0] * 4] * 2, 4: rates_a[seed]})
        write_run(tmp_path, "b", seed, {0: [[0] * 4] * 2, 4: rates_b[seed]})
    found = judged(tmp_path)
    assert found.interval == crossed_mean([[0.5, 0.5], [0.5, 0.75], [0.75, 0.75]])
    assert found.interval is not None
    assert found.interval.mean == pytest.approx(0.625)
    assert (found.seeds, found.problems, found.note) == ((1, 2, 3), 2, "")
    row = found.to_json()
    assert row["rule"] == (
        "a less b, paired by seed and problem: reproduced if the whole 95 % interval lies above 0.1, not reproduced if "
        "all of it lies at or below 0.1, else undecided"
    )
    assert row["metric"] == "pass@1 on held-out prompts, after the last step"
    assert (row["experiments"], row["seeds"], row["problems"], row["bound"]) == (["a", "b"], [1, 2, 3], 2, 0.1)
    assert row["verdict"] == decide(found.interval, Expected.more, 0.1).value


def test_problems_are_paired_by_their_ids_in_any_order(tmp_path: Path) -> None:
    write_run(tmp_path, "a", 1, {4: [[1], [0], [1]]}, ids=[7, 8, 9])
    write_run(tmp_path, "b", 1, {4: [[1], [0], [0]]}, ids=[9, 7, 8])
    found = judged(tmp_path, a={1}, b={1})
    assert found.interval == crossed_mean([[1, 0, 0]])


def test_one_seed_says_that_seeds_are_not_covered(tmp_path: Path) -> None:
    write_run(tmp_path, "a", 1, {4: [[1], [1], [1], [0]]})
    write_run(tmp_path, "b", 1, {4: [[0], [0], [0], [0]]})
    found = judged(tmp_path)
    assert found.seeds == (1,)
    assert "the interval does not cover seeds" in found.note
    assert "seed 2 is left out: " in found.note
    assert "a/seed_2 holds no finished run" in found.note
    found = judged(tmp_path, a={1}, b={1, 5})
    assert found.note.startswith("only one of the two has seed 5, left out; one seed: ")


@pytest.mark.parametrize("other", [{"ids": [0, 1, 5]}, {"digits": 4}, {"temperature": 0.0}])
def test_other_problems_are_not_compared(tmp_path: Path, other: dict[str, Any]) -> None:
    write_run(tmp_path, "a", 1, {4: [[1], [1], [0]]})
    write_run(tmp_path, "b", 1, {4: [[0], [0], [0]]}, **other)
    found = judged(tmp_path, a={1}, b={1})
    assert (found.interval, found.verdict, found.problems) == (None, OPEN, 0)
    assert "3 problems and " in found.note
    assert "they are not the same" in found.note


def test_seeds_with_other_problems_are_not_pooled(tmp_path: Path) -> None:
    for seed, digits in ((1, 3), (2, 4)):
        write_run(tmp_path, "a", seed, {4: [[1], [1], [0]]}, digits=digits)
        write_run(tmp_path, "b", seed, {4: [[0], [0], [0]]}, digits=digits)
    found = judged(tmp_path, a={1, 2}, b={1, 2})
    assert (found.interval, found.verdict) == (None, OPEN)
    assert "the seeds were asked different problems" in found.note


def test_nothing_to_compare(tmp_path: Path) -> None:
    found = judged(tmp_path, a=set(), b=set())
    assert (found.verdict, found.note) == (OPEN, "there is nothing to compare")
    assert found.to_json()["difference"] is None


def test_equal_everywhere_decides_nothing(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        for name in "ab":
            write_run(tmp_path, name, seed, {4: [[1], [1]]})
    found = judged(tmp_path)
    assert (found.interval, found.verdict) == ((0, 0, 0), OPEN)
    assert "no width" in found.note


def test_stages(tmp_path: Path) -> None:
    by_step = {0: [[0.0], [0.0]], 2: [[0.1], [0.2]], 4: [[0.3], [0.4]], 8: [[0.8], [1.0]]}
    write_run(tmp_path, "a", 1, by_step)
    write_run(tmp_path, "b", 1, {step: [[0.0], [0.0]] for step in by_step})
    for stage, mean in (
        (Stage.start, 0.0), (Stage.quarter, 0.15), (Stage.half, 0.35), (Stage.end, 0.9), (Stage.course, 1.4 / 3),
    ):  # fmt: skip
        found = judged(tmp_path, replace(CLAIM, first=Side("a", stage), second=Side("b", stage)), a={1}, b={1})
        assert found.interval is not None
        assert found.interval.mean == pytest.approx(mean)
    within = replace(CLAIM, first=Side("a"), second=Side("a", Stage.half))
    found = judged(tmp_path, within, a={1})
    assert found.interval is not None
    assert found.interval.mean == pytest.approx(0.55)
    row = found.to_json()
    assert row["metric"] == "pass@1 on held-out prompts, after the last step less after half of the steps"
    assert row["experiments"] == ["a"]


def test_a_stage_without_results_and_courses_of_other_steps(tmp_path: Path) -> None:
    write_run(tmp_path, "a", 1, {0: [[0], [0]], 4: [[1], [0]], 8: [[1], [0]]})
    write_run(tmp_path, "b", 1, {0: [[0], [0]], 2: [[1], [0]], 8: [[1], [0]]})
    early = replace(CLAIM, first=Side("a", Stage.quarter), second=Side("b", Stage.quarter))
    assert "a/seed_1: there are no results after step 2" in judged(tmp_path, early, a={1}, b={1}).note
    course = replace(CLAIM, first=Side("a", Stage.course), second=Side("b", Stage.course))
    assert "was asked after steps (4, 8)" in judged(tmp_path, course, a={1}, b={1}).note


def test_rollout_flops_are_paired_by_seed(tmp_path: Path) -> None:
    for seed, used in ((1, 6.0), (2, 7.0), (3, 8.0)):
        write_run(tmp_path, "a", seed, {4: [[1]]}, flops=(1.0, used - 1.0))
        write_run(tmp_path, "b", seed, {4: [[1]]}, flops=(0.0, 10.0))
    found = judged(tmp_path, FLOPS)
    assert found.interval == crossed_mean([[0.4], [0.3], [0.2]])
    assert (found.problems, found.verdict) == (0, OPEN)  # 0.3 +- 0.25 and a bound of 0.1
    assert "what a saves of b's, paired by seed: " in found.to_json()["rule"]
    alone = judged(tmp_path, FLOPS, a={1}, b={1})
    assert (alone.interval, alone.verdict) == (None, OPEN)
    assert "there is no interval" in alone.note


def test_flops_that_are_not_known(tmp_path: Path) -> None:
    for name in "ab":
        write_run(tmp_path, name, 1, {4: [[1]]}, flops=None)
    assert "does not say what the rollouts cost" in judged(tmp_path, FLOPS, a={1}, b={1}).note


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "cannot be read as JSON"),
        ("{}", "is no validation"),
        ('{"prompt_ids": [1], "correct": []}', "has not one list of rewards, all of one length, for each prompt"),
        ('{"prompt_ids": [1], "correct": [[]]}', "has not one list of rewards, all of one length, for each prompt"),
        ('{"prompt_ids": [], "correct": []}', "has not one list of rewards, all of one length, for each prompt"),
        (
            '{"prompt_ids": [1, 2], "correct": [[1], [0, 1]]}',
            "has not one list of rewards, all of one length, for each",
        ),
        ('{"prompt_ids": [1], "correct": [[1]], "asked": [1]}', "does not say what was asked"),
        ('{"prompt_ids": [1], "correct": [[1]], "asked": {"sampling": {}}}', "does not say what was asked"),
        ('{"prompt_ids": [1], "correct": [[1]], "asked": {"prompts": "a", "sampling": 1}}', "does not say what was"),
    ],
)
def test_a_damaged_validation_is_named(tmp_path: Path, text: str, fault: str) -> None:
    for name in "ab":
        write_run(tmp_path, name, 1, {4: [[1]]})
    (tmp_path / "a/seed_1/validation/step_000004.json").write_text(text)
    note = judged(tmp_path, a={1}, b={1}).note
    assert f"a/seed_1/validation/step_000004.json {fault}" in note


def test_at_paper_scale_evaluations_are_compared(tmp_path: Path) -> None:
    for name, after in (("a", [[1, 1], [1, 0]]), ("b", [[1, 0], [0, 0]])):
        run = write_run(tmp_path, name, 1, {16: [[0], [0]]})
        steps = {0: {"aime24": [[0, 0], [0, 0]]}, 16: {"aime24": after, "aime25": [[0, 0]]}}
        write_evaluation(run, "step_curve", {step: {"aime25": [[0, 0]]} | rest for step, rest in steps.items()})
        write_evaluation(run, "table_1", {16: {"aime24": after}})
    found = judged(tmp_path, scale=Scale.paper, a={1}, b={1})
    assert found.interval == crossed_mean([[0.5, 0.5, 0.0]])
    assert found.to_json()["metric"] == "pass@1 on AIME24 and AIME25, after the last step"
    table = judged(tmp_path, replace(CLAIM, metric=Metric.table_1), Scale.paper, a={1}, b={1})
    assert (table.problems, table.interval) == (2, (0.5, 0.5, 0.5))
    missing = judged(tmp_path, replace(CLAIM, metric=Metric.table_2), Scale.paper, a={1}, b={1})
    assert "a/seed_1/evaluation holds no finished evaluation table_2" in missing.note


def test_models_before_training_are_compared_at_one_and_at_all_samples(tmp_path: Path) -> None:
    write_model(tmp_path, "a", {"sums": [[1, 1], [1, 0], [0, 0], [0, 1]]})
    write_model(tmp_path, "b", {"sums": [[1, 0], [0, 0], [0, 0], [0, 1]]})
    at_1, at_k = (
        judged(tmp_path, replace(CLAIM, metric=metric, first=Side("a", Stage.start), second=Side("b", Stage.start)),
               a={0}, b={0})
        for metric in (Metric.models_at_1, Metric.models_at_k)
    )  # fmt: skip
    assert at_1.interval == crossed_mean([[0.5, 0.5, 0.0, 0.0]])
    assert at_k.interval == crossed_mean([[0.0, 1.0, 0.0, 0.0]])
    assert at_k.note == "of two models before training: the interval is for other problems"
    assert at_k.to_json()["metric"] == "pass@K of all K samples on held-out prompts, of models before training"
    missing = judged(tmp_path, replace(CLAIM, metric=Metric.models_at_1, second=Side("c")), a={0}, c={0})
    assert "evaluation holds no finished evaluation of c" in missing.note


def test_evaluations_of_other_problems_are_not_compared(tmp_path: Path) -> None:
    for name in "ab":
        run = write_run(tmp_path, name, 1, {16: [[0], [0]]})
        write_evaluation(run, "table_1", {16: {"aime24": [[1, 0], [0, 0]]}}, sha=name)
    found = judged(tmp_path, replace(CLAIM, metric=Metric.table_1), Scale.paper, a={1}, b={1})
    assert "they are not the same" in found.note


@pytest.mark.parametrize(("truth", "verdict"), [(0.0, NO), (0.05, NO), (0.1, None), (0.15, YES), (0.2, YES)])
def test_the_rule_errs_in_five_of_a_hundred_experiments_at_most(truth: float, verdict: Verdict | None) -> None:
    """Differences of 3 seeds and 256 problems, as tiny runs have them, with a bound of 0.1."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(300):
        seeds, problems = rng.normal(0, 0.008, (3, 1)), rng.normal(0, 0.1, (1, 256))
        interval = crossed_mean(truth + seeds + problems + rng.normal(0, 0.25, (3, 256)))
        found.append(decide(interval, Expected.more, 0.1))
    wrong = {YES, NO} if verdict is None else {YES, NO} - {verdict}
    assert sum(one in wrong for one in found) / 300 <= 0.075  # 0.05 and two standard errors
    if verdict is not None:
        assert sum(one is verdict for one in found) / 300 >= 0.5  # and it does decide


def test_claims_are_of_experiments_that_exist_and_each_is_there_once_a_scale() -> None:
    by_name = {one.name: one for one in EXPERIMENTS}
    for scale in Scale:
        ids = [claim.id for claim in CLAIMS if scale in claim.scales]
        assert len(ids) == len(set(ids))
        assert any(one.models for one in EXPERIMENTS if scale in one.scales)
    for claim in CLAIMS:
        assert claim.bound > 0
        assert claim.first != claim.second
        if claim.metric in OF_MODELS:
            assert {claim.first.experiment, claim.second.experiment} == {"learner", "explorer"}
            continue
        for side in (claim.first, claim.second):
            experiment = by_name[side.experiment]
            assert set(claim.scales) <= set(experiment.scales)
            if Scale.paper in claim.scales and claim.metric is not Metric.rollout_flops:
                preset = "step_curve" if claim.metric is Metric.pass_at_1 else claim.metric.value
                assert preset in {one.preset for one in experiment.evaluations}, (claim.id, side)


def test_claims_json(tmp_path: Path) -> None:
    for experiment, right in (("s2l", 1), ("grpo", 0)):
        write_run(tmp_path, experiment, 1, {0: [[0], [0]], 4: [[right], [0]], 8: [[right], [right]]})
    common = {"seed": 1, "kind": "train", "status": "done", "command": "x", "seconds": 1, "code": 0, "slurm_id": None}
    rows = [{"name": f"{name}-seed_1", "experiment": name, **common} for name in ("s2l", "grpo")]
    (tmp_path / "plan.json").write_text(json.dumps({"jobs": rows}))
    judge_root(tmp_path, Scale.toy)
    found = json.loads((tmp_path / "claims.json").read_text())
    assert [one["id"] for one in found] == ["s2l_over_grpo", "s2l_faster", "rollout_flops"]
    assert {
        "id", "text", "source", "experiments", "metric", "difference", "low", "high", "bound", "verdict", "seeds",
        "problems", "rule",
    } <= found[0].keys()  # fmt: skip
    assert found[0]["bound"] == POINT
    assert found[1]["difference"] == 0.75
    assert judge_all(CLAIMS, tmp_path, Scale.toy, {"s2l": {1}}) == []
