"""tools/compare_results.py: paired differences, and what cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.errors import UserError
from s2l_nemo.evaluation.compare import Results, differences, load_all, load_results
from s2l_nemo.evaluation.results import BenchmarkResult
from tests.commands import Done, run_here, run_process


def content(correct_PK: list[list[int]], name: str = "a", benchmark: str = "aime24", **changes: Any) -> dict[str, Any]:
    mean = sum(sum(row) / len(row) for row in correct_PK) / len(correct_PK)
    interval = {"mean": mean, "low": mean, "high": mean}
    return {
        "name": name, "benchmark": benchmark, "problems": len(correct_PK), "samples": len(correct_PK[0]),
        "pass@1": interval, "pass@k": {"1": interval, "2": interval}, "correct": correct_PK,
        "ids": list(range(len(correct_PK))), "mode": None, "most_samples": len(correct_PK[0]), "without_predictions": 0,
        "seed": 1, f"majority@{len(correct_PK[0])}": interval, "mean_tokens": None, "truncated_fraction": None,
        "no_answer_fraction": 0.0, "grader_errors": 0,
    } | changes  # fmt: skip


def parsed(correct_PK: list[list[int]]) -> Results:
    return {"x": BenchmarkResult.from_json(content(correct_PK, benchmark="x"))}


def write(folder: Path, *contents: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    for one in contents:
        (folder / f"{one['benchmark']}.json").write_text(json.dumps(one))
    (folder / "summary.json").write_text("{}")
    return folder


def compare(*arguments: object) -> Done:
    return run_here("tools/compare_results.py", *arguments)


def test_difference_of_hand_worked_results() -> None:
    # Every problem gains exactly 1/2, so that every resample gains 1/2, whatever the problems.
    worse, better = [[0, 0], [1, 0], [0, 1]] * 4, [[1, 0], [1, 1], [1, 1]] * 4
    (one,) = differences(parsed(worse), parsed(better))
    assert (one.first, one.second) == pytest.approx((1 / 3, 5 / 6))
    assert (one.gain, one.low, one.high) == pytest.approx((0.5, 0.5, 0.5))
    assert (one.sign, one.problems) == ("+", 12)
    (back,) = differences(parsed(better), parsed(worse))
    assert back.gain == pytest.approx(-0.5)
    assert back.sign == "-"
    (same,) = differences(parsed(worse), parsed([[0], [0], [1]] * 4))
    assert same.gain == pytest.approx(0)
    assert same.low < 0 < same.high
    assert same.sign == "~"


def test_the_order_of_files_does_not_matter_and_the_seed_repeats(tmp_path: Path) -> None:
    first = write(tmp_path / "a", content([[1, 0]] * 5, benchmark="b"), content([[0, 0]] * 5, benchmark="c"))
    second = write(tmp_path / "b", content([[1, 1], [0, 0]] * 2 + [[1, 0]], benchmark="b"),
                   content([[0, 1]] * 5, benchmark="c"))  # fmt: skip
    once, again = (differences(load_results(first), load_results(second), seed=3) for _ in range(2))
    assert once == again
    assert [one.benchmark for one in once] == ["b", "c"]


def test_a_folder_its_result_and_a_file_are_the_same(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine" / "result", content([[1]]))
    assert load_results(folder) == load_results(folder.parent) == load_results(folder / "aime24.json")


def test_equal_names_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, content([[1]], name="hf")) for name in ("a", "b")]
    assert [one["aime24"].name for one in load_all(paths)] == list(map(str, paths))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": [0, 2]}, "not the same in the same order"),
        ({"correct": [[1]] * 3, "ids": [0, 1, 2]}, "a has 2 problems and b 3"),
        ({"benchmark": "other"}, "different benchmarks: aime24, other only in one"),
    ],
)
def test_what_differs_is_an_error(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    first = write(tmp_path / "a", content([[1], [0]]))
    second = write(tmp_path / "b", content([[1], [0]], name="b") | changes)
    with pytest.raises(UserError, match=message):
        differences(load_results(first), load_results(second))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "is no JSON object"),
        (json.dumps(content([[1]], correct=[[2]])), "'correct' must hold"),
        (json.dumps(content([[1]], correct=[[]])), "'correct' must hold"),
        (json.dumps(content([[1]], ids=[])), "'correct' must hold"),
        (json.dumps(content([[1]]) | {"pass@k": {"1": 3}}), "must have mean, low and high"),
    ],
)
def test_damaged_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "aime24.json").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_results(tmp_path)
    assert "\n" not in str(caught.value)


def test_command(tmp_path: Path) -> None:
    folders = [
        write(tmp_path / "a", content([[0, 0], [0, 1]] * 5, name="grpo")),
        write(tmp_path / "b", content([[1, 0], [1, 1]] * 5, name="s2l [x]")),
        write(tmp_path / "c", content([[0, 0], [0, 1]] * 5, name="third")),
    ]
    done = run_process("tools/compare_results.py", *folders, "--plot", tmp_path / "curves.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert "A = grpo, B = s2l [x]" in done.stdout
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("aime24")]
    assert lines == [
        ["aime24", "10", "25.0", "75.0", "+50.0", "(+50.0", "to", "+50.0)", "+"],
        ["aime24", "10", "25.0", "25.0", "+0.0", "(+0.0", "to", "+0.0)", "~"],
    ]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("arguments", [["/nowhere", "/nowhere"], ["."], [".", "docs"]])
def test_mistakes_of_the_command_are_one_line(arguments: list[str]) -> None:
    done = compare(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
