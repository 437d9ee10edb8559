"""Results on the disk and in memory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.config.asking import Mode
from s2l_nemo.errors import UserError
from s2l_nemo.evaluation.results import BenchmarkResult, Summary, read_result
from s2l_nemo.measures.statistics import Interval

RESULT = BenchmarkResult(
    name="s2l",
    benchmark="aime24",
    mode=Mode.nothink,
    max_tokens=4096,
    samples=2,
    most_samples=3,
    without_predictions=1,
    seed=7,
    pass_at_1=Interval(0.5, 0.25, 0.75),
    pass_at_k={1: Interval(0.5, 0.25, 0.75), 2: Interval(0.625, 0.5, 1.0)},
    majority=Interval(0.375, 0.125, 0.875),
    mean_tokens=12.5,
    truncated_fraction=0.0625,
    no_answer_fraction=0.1875,
    grader_errors=4,
    correct_PK=[[1, 0, 1], [0, 0]],
    ids=[0, "b"],
)
CONTENT = {
    "name": "s2l",
    "benchmark": "aime24",
    "mode": "nothink",
    "max_tokens": 4096,
    "problems": 2,
    "samples": 2,
    "most_samples": 3,
    "without_predictions": 1,
    "seed": 7,
    "pass@1": {"mean": 0.5, "low": 0.25, "high": 0.75},
    "pass@k": {
        "1": {"mean": 0.5, "low": 0.25, "high": 0.75},
        "2": {"mean": 0.625, "low": 0.5, "high": 1.0},
    },
    "majority@2": {"mean": 0.375, "low": 0.125, "high": 0.875},
    "mean_tokens": 12.5,
    "truncated_fraction": 0.0625,
    "no_answer_fraction": 0.1875,
    "grader_errors": 4,
    "correct": [[1, 0, 1], [0, 0]],
    "ids": [0, "b"],
}
RESCORED = {key: value for key, value in CONTENT.items() if key != "max_tokens"} | {"mode": None}


def test_the_content_of_a_file_in_its_order() -> None:
    assert json.dumps(RESULT.to_json()) == json.dumps(CONTENT)
    assert BenchmarkResult.from_json(CONTENT) == RESULT


def test_whoever_sampled_may_not_have_said_how() -> None:
    result = BenchmarkResult.from_json(RESCORED)
    assert (result.mode, result.max_tokens) == (None, None)
    assert json.dumps(result.to_json()) == json.dumps(RESCORED)


def test_summary_by_hand() -> None:
    other = BenchmarkResult.from_json(
        CONTENT
        | {"benchmark": "math500", "pass@1": {"mean": 0.75, "low": 0, "high": 1}, "correct": [[1, 1]], "ids": [5]}
    )
    summary = Summary("s2l", [RESULT, other])
    assert summary.average_pass_at_1 == 0.625
    figures = {
        "problems": 2,
        "samples": 2,
        "pass@1": 0.5,
        "pass@2": 0.625,
        "majority@2": 0.375,
        "mean_tokens": 12.5,
        "truncated_fraction": 0.0625,
        "no_answer_fraction": 0.1875,
        "grader_errors": 4,
    }
    expected = {
        "name": "s2l",
        "benchmarks": {"aime24": figures, "math500": figures | {"problems": 1, "pass@1": 0.75}},
        "average_pass@1": 0.625,
    }
    assert json.dumps(summary.to_json()) == json.dumps(expected)


INTERVALS = "'pass@1' and all of 'pass@k' must have mean, low and high"
SAMPLES = "'correct' must hold a list of 0 and 1 for each of 'ids'"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"correct": []}, SAMPLES),
        ({"correct": [[1]]}, SAMPLES),
        ({"correct": [[1], []]}, SAMPLES),
        ({"correct": [[1], [0, 2]]}, SAMPLES),
        ({"correct": [[1], 0]}, SAMPLES),
        ({"correct": "ab"}, SAMPLES),
        ({"ids": "ab"}, SAMPLES),
        ({"correct": [], "ids": []}, SAMPLES),
        ({"pass@1": 0.5}, INTERVALS),
        ({"pass@1": {"mean": 0.5, "low": 0.5}}, INTERVALS),
        ({"pass@k": {"1": {"mean": "half", "low": 0, "high": 1}}}, INTERVALS),
        ({"pass@k": []}, INTERVALS),
        ({"majority@2": None}, "'majority@2' must have mean, low and high"),
        ({"mode": "deep"}, "'deep' is not a valid Mode"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    file = tmp_path / "aime24.json"
    file.write_text(json.dumps(CONTENT | changes))
    with pytest.raises(UserError) as caught:
        read_result(file)
    assert str(caught.value) == f"{file} is damaged: {message}"


@pytest.mark.parametrize("key", [*RESCORED, "majority@2"])
def test_a_file_without_one_of_the_keys_is_none_of_ours(tmp_path: Path, key: str) -> None:
    file = tmp_path / "aime24.json"
    file.write_text(json.dumps({name: value for name, value in CONTENT.items() if name != key}))
    with pytest.raises(UserError) as caught:
        read_result(file)
    assert str(caught.value) == f"{file} is no result of recipes/evaluate.py: it has no {key!r}"


def test_what_is_no_object_or_no_json_is_none_of_ours(tmp_path: Path) -> None:
    file = tmp_path / "aime24.json"
    file.write_text("[1]")
    with pytest.raises(UserError, match=r"is no JSON object: give a BENCH\.json"):
        read_result(file)
    file.write_text("{")
    with pytest.raises(UserError, match=r"cannot be read as JSON \(.*\): give a BENCH\.json of recipes/evaluate\.py$"):
        read_result(file)
    with pytest.raises(UserError, match=r"cannot be read as JSON \(.*No such file"):
        read_result(tmp_path / "absent.json")


def test_a_file_can_be_read_back(tmp_path: Path) -> None:
    file = tmp_path / "aime24.json"
    file.write_text(json.dumps(RESULT.to_json()))
    assert read_result(file) == RESULT


def test_a_subset_is_named_in_both_files(tmp_path: Path) -> None:
    part = replace(RESULT, subset="2 of 30, the first")
    file = tmp_path / "aime24.json"
    file.write_text(json.dumps(part.to_json()))
    assert list(part.to_json())[:5] == ["name", "benchmark", "mode", "max_tokens", "problems"]
    assert part.to_json()["subset"] == "2 of 30, the first"
    assert read_result(file) == part
    assert Summary("s2l", [part]).to_json()["benchmarks"]["aime24"]["subset"] == "2 of 30, the first"
