"""Rows in the forms of public data sets: what training files and benchmarks are made of them."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s2l_nemo.config.mix import DataSource
from s2l_nemo.config.schema import AnswerKind, OnBadRow
from s2l_nemo.data.benchmarks import INSTRUCTIONS, load_benchmark
from s2l_nemo.data.rows import read_rows
from tests.commands import Done, run_here

HASHES = 'Let\'s think step by step and output the final answer after "####".'
GSM8K = [
    {
        "question": "Mia has 4 bags of 12 nuts and eats 3 nuts. How many are left?",
        "answer": "The bags hold 4 * 12 = <<4*12=48>>48 nuts.\nSo 48 - 3 = <<48-3=45>>45 are left.\n#### 45",
    },
    {
        "question": f"A van costs $9,000 and a lorry 3 times that. What does the lorry cost? {HASHES}",
        "answer": "It costs 3 * 9000 = $<<3*9000=27000>>27,000.\n#### 27,000",
    },
    {"question": "It is 5 degrees and gets 8 colder. What is it then?", "answer": "5 - 8 = <<5-8=-3>>-3\n#### -3"},
    {"question": "Who is right?", "answer": "Nobody can tell, because the text does not say what they bet on at all."},
]
MATH = [
    {
        "problem": "Find the slope of $2y = x + 6$.",
        "level": "Level 1",
        "type": "Algebra",
        "solution": "Dividing by 2 gives $y = \\frac{1}{2}x + 3$, so the slope is $\\boxed{\\frac{1}{2}}$.",
    },
    {
        "problem": "Solve $x^2 = 5x - 6$.",
        "level": "Level 2",
        "type": "Algebra",
        "solution": "It is $(x-2)(x-3) = 0$, so not \\boxed{1}, but $x = \\boxed{2}$ or $x = \\boxed{3}$.",
    },
    {
        "problem": "What does it show? ![](plot.png)",
        "level": "Level ?",
        "type": "Geometry",
        "solution": "$\\boxed{3}$",
    },
    {"problem": "Prove it.", "level": "Level 5", "type": "Algebra", "solution": "We argue by contradiction. " * 9},
    {"problem": "How wide is it?", "level": "Level 5", "type": "Algebra", "solution": "It is $\\boxed{t(0,4]}$."},
]
ARC = [
    {
        "id": "Q_1",
        "question": "Which of these melts first?",
        "choices": {"text": ["iron", "ice", "gold", "salt"], "label": ["A", "B", "C", "D"]},
        "answerKey": "B",
    },
    {
        "id": "Q_2",
        "question": "What do roots take up?",
        "choices": {"text": ["light", "wind", "water", "heat"], "label": ["1", "2", "3", "4"]},
        "answerKey": "3",
    },
    {
        "id": "Q_3",
        "question": "What turns?",
        "choices": {"text": ["a wall", "a wheel"], "label": ["A", "B"]},
        "answerKey": "E",
    },
]
COMMONSENSE = [
    {
        "id": "c1",
        "question": "Where does a spare key lie?",
        "question_concept": "key",
        "choices": {"label": list("ABCDE"), "text": ["drawer", "river", "oven", "cloud", "song"]},
        "answerKey": "A",
    }
]
DAPO_PREFIX = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
DAPO_SUFFIX = '\n\nRemember to put your answer on its own line after "Answer:".'


def dapo_row(question: str, answer: str, index: str) -> dict[str, Any]:
    return {
        "data_source": "math_dapo",
        "prompt": [{"content": f"{DAPO_PREFIX}{question}{DAPO_SUFFIX}", "role": "user"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": index},
    }


DAPO = [
    dapo_row("Compute $7 \\cdot 8$.", "56", "u1"),
    dapo_row("Compute $7 \\cdot 8$.", "56", "u1"),
    dapo_row("What is half of 1?", "0.5", "u2"),
    dapo_row("What is half of $1$?", "\\frac{1}{2}", "u3"),
    dapo_row("what is  half of 1?", "1/2", "u4"),
    dapo_row("How many are there?", "4", "u5"),
    dapo_row("How many are there?", "5", "u6"),
]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


def run(*arguments: object) -> Done:
    return run_here("tools/prepare_data.py", *arguments)


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def prepared(source: Path, output: Path, *options: str) -> tuple[list[tuple[str, str]], dict[str, int], str]:
    """Prompts with their answers, what was dropped by reason, and what the tool says."""
    done = run("--source", source, "--output", output, *options)
    assert (done.returncode, done.stderr) == (0, "")
    rows = read_rows(DataSource(str(output), "prompt", "answer", None), OnBadRow.error).rows
    manifest = json.loads(output.with_name(f"{output.name}.manifest.json").read_text())
    return [(row.question, row.answer) for row in rows], manifest["rows"]["dropped"], done.stdout


def golds(source: Path, name: str, folder: Path) -> tuple[list[str], str]:
    """Gold answers of the benchmark that a source becomes, and what the tool says."""
    done = run("--source", source, "--output", folder / f"{name}.jsonl", "--format", "benchmark")
    assert (done.returncode, done.stderr) == (0, "")
    return [problem.gold for problem in load_benchmark(name, folder, AnswerKind.math).problems], done.stdout


def test_gsm8k_has_its_answers_behind_hashes(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "source.jsonl", GSM8K)
    rows, dropped, said = prepared(source, tmp_path / "train.jsonl")
    assert [answer for _, answer in rows] == ["45", "27,000", "-3"]
    assert rows[1][0] == "A van costs $9,000 and a lorry 3 times that. What does the lorry cost?"
    assert dropped == {"answer is prose": 1}
    assert "answer is prose" in said
    found, said = golds(source, "gsm8k", tmp_path)
    assert found[:3] == ["45", "27,000", "-3"]
    assert "wrote" in said
    assert "4 problems" in said
    assert "1 of their answers nothing but the same text can equal: line 4: 'Nobody can tell" in said
    questions = [problem.question for problem in load_benchmark("gsm8k", tmp_path, AnswerKind.math).problems]
    assert questions[1] == rows[1][0]


def test_math_has_its_answers_in_the_box_of_the_solution(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "source.jsonl", MATH)
    rows, dropped, said = prepared(source, tmp_path / "train.jsonl")
    assert rows == [("Find the slope of $2y = x + 6$.", "\\frac{1}{2}"), ("Solve $x^2 = 5x - 6$.", "2, 3")]
    assert dropped == {
        "answer is prose": 1,
        "answer that the reward cannot read": 1,
        "question needs a picture": 1,
    }
    assert "5: 't(0,4]': " in said
    found, said = golds(source, "math", tmp_path)
    assert found == ["\\frac{1}{2}", "2, 3", "3", MATH[3]["solution"], "t(0,4]"]
    assert "2 of their answers nothing but the same text can equal: line 4: " in said
    manifest = json.loads((tmp_path / "math.jsonl.manifest.json").read_text())
    assert [fault.split(":")[0] for fault in manifest["rows"]["answer that the reward cannot read"]] == [
        "line 4",
        "line 5",
    ]


def test_arc_keeps_its_choices_and_numbers_become_letters(tmp_path: Path) -> None:
    source = parquet(tmp_path / "arc.parquet", ARC)
    rows, dropped, said = prepared(source, tmp_path / "train.jsonl", "--instruction")
    letter = INSTRUCTIONS[AnswerKind.choice]
    assert rows == [
        (f"Which of these melts first?\n\nA. iron\nB. ice\nC. gold\nD. salt\n\n{letter}", "B"),
        (f"What do roots take up?\n\nA. light\nB. wind\nC. water\nD. heat\n\n{letter}", "C"),
    ]
    assert dropped == {"malformed row": 1}
    assert "3: 'answerKey' 'E' is none of the choices A, B" in " ".join(said.split())
    assert said.endswith("the answers are letters: train with rewards.answer=choice\n")
    done = run("--source", source, "--output", tmp_path / "arc.jsonl", "--format", "benchmark")
    assert "arc.parquet:3: 'answerKey' 'E' is none of the choices A, B" in done.stderr


def test_commonsenseqa_keeps_its_choices(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "source.jsonl", COMMONSENSE)
    rows, dropped, _ = prepared(source, tmp_path / "train.jsonl")
    listed = "A. drawer\nB. river\nC. oven\nD. cloud\nE. song"
    assert (rows, dropped) == ([(f"Where does a spare key lie?\n\n{listed}", "A")], {})
    found, _ = golds(source, "commonsenseqa", tmp_path)
    assert found == ["A"]
    (problem,) = load_benchmark("commonsenseqa", tmp_path, AnswerKind.math).problems
    assert problem.prompt.startswith(rows[0][0])
    assert json.loads((tmp_path / "commonsenseqa.jsonl").read_text())["answerKey"] == "A"


def test_dapo_loses_its_wrapper_and_repetitions_count_by_value(tmp_path: Path) -> None:
    source = parquet(tmp_path / "dapo.parquet", DAPO)
    rows, dropped, said = prepared(source, tmp_path / "train.jsonl")
    assert rows == [
        ("Compute $7 \\cdot 8$.", "56"),
        ("What is half of 1?", "0.5"),
        ("What is half of $1$?", "\\frac{1}{2}"),
    ]
    assert dropped == {
        "same question with different answers": 2,
        "duplicate after normalisation": 1,
        "exact duplicate": 1,
    }
    assert "6: '4'; 7: '5'" in said
    assert "had an instruction wrapper" in said


def test_questions_of_a_benchmark_of_choices_are_left_out(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "source.jsonl", [*COMMONSENSE, ARC[0]])
    benchmark = jsonl(tmp_path / "bench.jsonl", COMMONSENSE)
    rows, dropped, _ = prepared(source, tmp_path / "train.jsonl", "--exclude", str(benchmark))
    assert (len(rows), dropped) == (1, {"question of an excluded file": 1})


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("array.json", json.dumps(GSM8K, indent=2).encode()),
        ("array.jsonl", json.dumps(GSM8K).encode()),
        ("lines.json", b"\n".join(json.dumps(row).encode() for row in GSM8K)),
        ("bom.jsonl", b"\xef\xbb\xbf" + b"\n".join(json.dumps(row).encode() for row in GSM8K)),
        ("bom.json", b"\xef\xbb\xbf" + json.dumps(GSM8K).encode()),
        ("packed.jsonl.gz", gzip.compress(b"\n".join(json.dumps(row).encode() for row in GSM8K))),
        ("packed.json.gz", gzip.compress(json.dumps(GSM8K).encode())),
        ("table.csv", as_csv(GSM8K)),
        ("table.csv.gz", gzip.compress(b"\xef\xbb\xbf" + as_csv(GSM8K))),
    ],
)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str, content: bytes) -> None:
    expected, _, _ = prepared(jsonl(tmp_path / "plain.jsonl", GSM8K), tmp_path / "expected.jsonl")
    (tmp_path / name).write_bytes(content)
    found, dropped, _ = prepared(tmp_path / name, tmp_path / "train.jsonl")
    assert found == expected
    assert dropped == {"answer is prose": 1}


def test_a_system_message_stays_with_its_question(tmp_path: Path) -> None:
    chats = [
        {
            "prompt": [
                {"role": "system", "content": "You count. Put your final answer after ####."},
                {"role": "user", "content": "1+1?"},
            ],
            "answer": "2",
        },
        {"prompt": [{"role": "user", "content": "1+2?"}], "answer": "3"},
    ]
    output = tmp_path / "train.jsonl"
    prepared(jsonl(tmp_path / "chats.jsonl", chats), output)
    rows = read_rows(DataSource(str(output), "prompt", "answer", None), OnBadRow.error).rows
    assert [(row.system, row.question, row.answer) for row in rows] == [
        ("You count.", "1+1?", "2"),
        (None, "1+2?", "3"),
    ]
