"""What the answers of an unknown benchmark are is said in one place, and an empty gold is a mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from s2l_nemo.config.schema import AnswerKind
from s2l_nemo.data.benchmarks import Benchmark, Problem
from s2l_nemo.errors import UserError
from s2l_nemo.evaluation.answers import check_answers, stated_answer, unreadable_golds
from s2l_nemo.evaluation.raw import read_raw
from tests.commands import run_here


def outputs(folder: Path, answer: str | None, rows: list[dict[str, object]]) -> Path:
    folder.mkdir()
    if answer is not None:
        (folder / "config.txt").write_text(yaml.safe_dump({"rewards": {"answer": answer}}))
    (folder / "mine_raw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


ROWS: list[dict[str, object]] = [
    {"question": f"q{n}", "answer": "B", "outputs": [r"\boxed{B}", r"\boxed{C}"]} for n in range(70)
]


def test_config_txt_says_it(tmp_path: Path) -> None:
    said = outputs(tmp_path / "said", "choice", ROWS)
    unsaid = outputs(tmp_path / "unsaid", None, ROWS)
    assert (stated_answer(said), stated_answer(unsaid)) == (AnswerKind.choice, None)
    check_answers(said, AnswerKind.choice)
    check_answers(unsaid, AnswerKind.choice)
    with pytest.raises(
        UserError, match=r"rewards.answer=math, and .*config.txt says choice: give rewards.answer=choice"
    ):
        check_answers(said, AnswerKind.math)


def test_rescoring_as_something_else_is_refused_and_a_log_shows_progress(tmp_path: Path) -> None:
    folder = outputs(tmp_path / "said", "choice", ROWS)
    refused = run_here("recipes/evaluate.py", f"evaluate.rescore={folder}")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert not (folder / "result").exists()
    done = run_here("recipes/evaluate.py", f"evaluate.rescore={folder}", "rewards.answer=choice")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:2] == ["mine  64/70 problems graded", "mine  70/70 problems graded"]


@pytest.mark.parametrize("empty", ["", "  ", "\n"])
def test_an_empty_gold_is_named(tmp_path: Path, empty: str) -> None:
    folder = outputs(tmp_path / "o", None, [*ROWS[:1], {"question": "q", "answer": empty, "outputs": ["x"]}])
    with pytest.raises(UserError, match=r"mine_raw.jsonl:2: 'answer' is empty: no response can be right"):
        list(read_raw(folder / "mine_raw.jsonl"))


def test_golds_that_no_answer_can_equal_are_named() -> None:
    def benchmark(kind: AnswerKind, *golds: str) -> Benchmark:
        return Benchmark("mine", kind, 9, tuple(Problem(n, "q", gold, "q") for n, gold in enumerate(golds)))

    assert unreadable_golds(benchmark(AnswerKind.math, "1", r"\frac{1}{2}", "blue")) is None
    assert unreadable_golds(benchmark(AnswerKind.choice, "A", "both", "b or c")) == (
        "mine: 2 golds cannot be graded, so that every answer to them counts as wrong; the first is 'both' of problem "
        "1: it is no letter"
    )
