from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from s2l_nemo.config.schema import AnswerKind
from s2l_nemo.data.benchmarks import BENCHMARKS, benchmark_kind, load_benchmark
from s2l_nemo.errors import UserError

FILES = Path(os.environ.get("S2L_BENCHMARKS", Path(__file__).resolve().parents[3] / "shared" / "data"))
MATH = AnswerKind.math
CHOICE = {"question": "Where?", "choices": {"label": ["A", "B"], "text": ["here", "there"]}, "answerKey": "B"}


def write(folder: Path, name: str, *records: object) -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records))
    return path


@pytest.mark.parametrize(
    ("name", "count", "kind", "max_tokens"),
    [
        ("aime24", 30, AnswerKind.math, 38_912),
        ("aime25", 30, AnswerKind.math, 38_912),
        ("math500", 500, AnswerKind.math, 32_768),
        ("olympiadbench", 1177, AnswerKind.math, 32_768),
        ("commonsenseqa", 100, AnswerKind.choice, 8_192),
    ],
)
def test_the_papers_benchmarks(name: str, count: int, kind: AnswerKind, max_tokens: int) -> None:
    if not (FILES / f"{name}.jsonl").is_file():
        pytest.skip(f"no {name}.jsonl in {FILES}: set S2L_BENCHMARKS")
    benchmark = load_benchmark(name, FILES, MATH)
    assert (benchmark.name, benchmark.answer, benchmark.max_tokens) == (name, kind, max_tokens)
    assert [problem.problem_id for problem in benchmark.problems] == list(range(count))
    assert all(r"\boxed{}" in problem.prompt and problem.gold for problem in benchmark.problems)
    if kind is AnswerKind.choice:
        assert all(problem.gold in "ABCDE" for problem in benchmark.problems)
    assert load_benchmark(name, FILES, MATH, 7).problems == benchmark.problems[:7]


def test_prompts_are_question_choices_and_instruction(tmp_path: Path) -> None:
    write(tmp_path, "aime25", {"question": "1+1?", "answer": 2, "id": "0"})
    write(tmp_path, "commonsenseqa", CHOICE)
    (problem,) = load_benchmark("aime25", tmp_path, MATH).problems
    assert problem.gold == "2"
    assert problem.prompt == "1+1?\n\nPlease reason step by step, and put your final answer within \\boxed{}."
    (problem,) = load_benchmark("commonsenseqa", tmp_path, MATH).problems
    assert (problem.question, problem.gold) == ("Where?", "B")
    assert problem.prompt.startswith("Where?\n\nA. here\nB. there\n\nPlease reason")
    assert "letter" in problem.prompt


@pytest.mark.parametrize("other", AnswerKind)
def test_what_a_benchmark_is(other: AnswerKind) -> None:
    assert benchmark_kind("aime24", other) == (AnswerKind.math, 38_912, 16)
    assert benchmark_kind("commonsenseqa", other) == (AnswerKind.choice, 8_192, 4)
    assert benchmark_kind("mine", other) == (other, 32_768, 16)


@pytest.mark.parametrize("other", [AnswerKind.math, AnswerKind.exact])
def test_another_file_of_the_folder_has_the_answers_that_the_user_says(tmp_path: Path, other: AnswerKind) -> None:
    write(tmp_path, "mine", {"question": "1+1?", "answer": ["2", "two"]})
    benchmark = load_benchmark("mine", tmp_path, other)
    assert (benchmark.answer, benchmark.max_tokens, benchmark.problems[0].gold) == (other, 32_768, "2, two")
    assert benchmark.problems[0].prompt.endswith("and put your final answer within \\boxed{}.")


def test_another_file_of_multiple_choice(tmp_path: Path) -> None:
    write(tmp_path, "mine", CHOICE, {"question": "A. here, or B. there?", "answer": "b"})
    benchmark = load_benchmark("mine", tmp_path, AnswerKind.choice)
    listed, bare = benchmark.problems
    assert (benchmark.answer, listed.gold, bare.gold) == (AnswerKind.choice, "B", "b")
    assert listed.prompt.startswith("Where?\n\nA. here\nB. there\n\nPlease")
    assert bare.prompt.startswith("A. here, or B. there?\n\nPlease")
    assert listed.prompt.endswith("put the letter of your final answer within \\boxed{}.")
    write(tmp_path, "mine", {"question": "1+1?", "answer": "2"})
    with pytest.raises(UserError, match=r"mine\.jsonl:1: 'answer' must be the letter of a choice, not '2'"):
        load_benchmark("mine", tmp_path, AnswerKind.choice)


@pytest.mark.parametrize("name", ["aime24", "other", "../mine", "", "a/b", ".hidden"])
def test_a_missing_file_is_named_with_what_is_known(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    for hidden in ("mine", ".hidden", "in/.hidden", ""):
        write(tmp_path, hidden, {"question": "1+1?", "answer": "2"})
    with pytest.raises(UserError, match=r"no benchmark .*known are aime24, aime25, math500"):
        load_benchmark(name, tmp_path / "in", MATH)
    assert list(BENCHMARKS) == ["aime24", "aime25", "math500", "olympiadbench", "commonsenseqa"]


@pytest.mark.parametrize(
    ("name", "record", "reason"),
    [
        ("aime24", {"problem": "1+1?", "answer": "2"}, r"no key 'question', there are \['answer', 'problem'\]"),
        ("aime24", {"question": "1+1?"}, "no key 'answer'"),
        ("aime24", {"question": "1+1?", "answer": ""}, "'answer' is empty"),
        ("aime24", [1], "a JSON list instead of an object"),
        ("commonsenseqa", CHOICE | {"answerKey": "C"}, "'answerKey' 'C' is none of the choices A, B"),
        ("commonsenseqa", CHOICE | {"answerKey": ""}, "'answerKey' is empty"),
        ("commonsenseqa", {"question": "Where?", "answerKey": "B"}, "no key 'choices'"),
        ("commonsenseqa", {"question": "Where?"}, "no key 'answer'"),
        ("commonsenseqa", CHOICE | {"choices": ["here"]}, "'answerKey' 'B' is none of the choices A"),
        ("commonsenseqa", CHOICE | {"choices": []}, "'choices' is empty"),
        ("commonsenseqa", CHOICE | {"choices": 3}, "'choices' must be"),
        ("commonsenseqa", CHOICE | {"choices": {"label": ["A"], "text": ["a", "b"]}}, "'choices' must be"),
        (
            "commonsenseqa",
            CHOICE | {"choices": {"label": ["B", "B"], "text": ["a", "b"]}},
            ".* must be different letters A-Z",
        ),
        (
            "commonsenseqa",
            CHOICE | {"choices": {"label": ["B", "1"], "text": ["a", "b"]}},
            ".* must be different letters A-Z",
        ),
        (
            "commonsenseqa",
            CHOICE | {"choices": {"label": ["A", "B"], "text": ["a", 3]}},
            "the texts of 'choices' must be",
        ),
    ],
)
def test_a_malformed_problem_is_named_with_its_line(tmp_path: Path, name: str, record: object, reason: str) -> None:
    good = CHOICE if name == "commonsenseqa" else {"question": "q", "answer": "1"}
    path = write(tmp_path, name, good, record)
    with pytest.raises(UserError, match=rf"{path.name}:2: {reason}"):
        load_benchmark(name, tmp_path, MATH)


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "aime24")
    with pytest.raises(UserError, match="has no problems"):
        load_benchmark("aime24", tmp_path, MATH)


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    rows = [{"question": f"q{n}", "answer": str(n), "source": "TP_x" if n == 1 else "OE_x"} for n in range(4)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def load(limit: int | None = None, *, proofs: bool = True) -> tuple[list[int], str | None]:
        benchmark = load_benchmark("mine", tmp_path, MATH, limit, proofs=proofs)
        return [problem.problem_id for problem in benchmark.problems], benchmark.subset

    assert load() == ([0, 1, 2, 3], None)
    assert load(4) == ([0, 1, 2, 3], None)
    assert load(2) == ([0, 1], "2 of 4, the first")
    assert load(proofs=False) == ([0, 2, 3], "3 of 4, without proofs")  # ids are numbers in the file: seeds stay
    assert load(2, proofs=False) == ([0, 2], "2 of 4, the first, without proofs")
