"""Figures of one benchmark with a scripted grader."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.config.asking import Mode
from s2l_nemo.config.schema import AnswerKind, RewardsConfig
from s2l_nemo.evaluation import scoring
from s2l_nemo.evaluation.raw import RawRow
from s2l_nemo.evaluation.results import Summary
from s2l_nemo.evaluation.scoring import benchmark_grader, curve_points, grade_rows, result
from s2l_nemo.rewards.grader import Grade, GradeItem


class ScriptedGrader:
    """The response says what its grade is: `reward answer`; `x` is a check that failed, `-` no answer."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def grade(self, items: Sequence[GradeItem]) -> list[Grade]:
        self.batches.append(len(items))
        grades = []
        for item in items:
            reward, answer = item.response.split()
            if reward == "x":
                grades.append(Grade(None, answer, "killed"))
            else:
                grades.append(Grade(float(reward), None if answer == "-" else answer))
        return grades

    def close(self) -> None: ...


def row(number: int, *outputs: str, tokens: list[int] | None = None, reasons: list[str] | None = None) -> RawRow:
    return RawRow(number, f"q{number}", "1", list(outputs), tokens, reasons)


def test_a_failed_check_is_counted_and_a_partial_mark_is_wrong(tmp_path: Path) -> None:
    rows = [
        row(0, "1 1", "0 -", "x 1", tokens=[4, 6, 8], reasons=["stop", "length", "stop"]),
        row(1, "0.5 2", "1.0 3", "0 2"),
    ]
    graded = grade_rows(rows, ScriptedGrader(), tmp_path / "b.jsonl")
    header: Any = {"name": "n", "benchmark": "b", "mode": Mode.think, "max_tokens": None}
    content = result(graded, **header, seed=7).to_json()
    assert list(content)[:3] == ["name", "benchmark", "mode"]
    assert content["correct"] == [[1, 0, 0], [0, 1, 0]]
    assert content["grader_errors"] == 1
    assert content["pass@1"]["mean"] == pytest.approx(1 / 3)
    assert list(content["pass@k"]) == ["1", "2", "3"]
    assert content["pass@k"]["2"]["mean"] == pytest.approx(2 / 3)  # 1 - C(2, 2) / C(3, 2)
    assert content["majority@3"]["mean"] == pytest.approx(1 / 2)  # 1 has two votes and is right, 2 has two and is not
    assert content["no_answer_fraction"] == pytest.approx(1 / 6)
    assert (content["mean_tokens"], content["truncated_fraction"]) == (6, pytest.approx(1 / 3))
    assert content["seed"] == 7
    assert result(graded, **header, seed=7).to_json() == content
    lines = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert lines[0] == {
        "id": 0, "question": "q0", "answer": "1", "extracted": ["1", None, "1"], "rewards": [1.0, 0.0, None],
        "errors": [None, None, "killed"],
    }  # fmt: skip


def test_rows_are_graded_in_bounded_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "ROWS_AT_ONCE", 2)
    grader = ScriptedGrader()
    rows = [row(0, "1 a"), row(1), row(2, "0 b", "1 c"), row(3, "1 d"), row(4, "0 e")]
    graded = grade_rows(iter(rows), grader, tmp_path / "b.jsonl")
    assert grader.batches == [1, 3, 1]
    assert graded.correct == [[1], [], [0, 1], [1], [0]]
    assert graded.answers == [["a"], [], ["b", "c"], ["d"], ["e"]]


def test_a_failing_grader_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="could not convert"):
        grade_rows([row(0, "one a")], ScriptedGrader(), tmp_path / "b.jsonl")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("samples", "points"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (16, [1, 2, 4, 8, 16]), (20, [1, 2, 4, 8, 16, 20])]
)
def test_points_of_the_curve(samples: int, points: list[int]) -> None:
    assert curve_points(samples) == points


def test_summary_averages_benchmarks(tmp_path: Path) -> None:
    results = []
    for name, rows in (("a", [row(0, "1 1")]), ("b", [row(0, "0 1", "1 2"), row(1, "0 -", "0 -")])):
        graded = grade_rows(rows, ScriptedGrader(), tmp_path / f"{name}.jsonl")
        results.append(result(graded, name="n", benchmark=name, mode=None, max_tokens=None, seed=1))
    content = Summary("n", results).to_json()
    assert content["average_pass@1"] == pytest.approx((1 + 1 / 4) / 2)
    assert content["benchmarks"]["b"] == {
        "problems": 2, "samples": 2, "pass@1": 0.25, "pass@2": 0.5, "majority@2": 0.25, "mean_tokens": None,
        "truncated_fraction": None, "no_answer_fraction": 0.5, "grader_errors": 0,
    }  # fmt: skip


def test_kind_of_answer() -> None:
    exact = RewardsConfig(answer=AnswerKind.exact)
    item = GradeItem(0, "q", "0.5", r"\boxed{1/2}")
    for name, reward in (("mine", 0.0), ("aime24", 1.0)):
        grader = benchmark_grader(name, exact)
        assert [grade.reward for grade in grader.grade([item])] == [reward]
        grader.close()
