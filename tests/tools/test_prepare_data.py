"""The command as users run it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s2l_nemo.config.mix import DataSource
from s2l_nemo.config.schema import AnswerKind, OnBadRow
from s2l_nemo.data.benchmarks import INSTRUCTIONS, load_benchmark
from s2l_nemo.data.rows import read_rows
from tests.commands import ROOT, Done, run_here, run_process

PREFIX = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
SUFFIX = '\n\nRemember to put your answer on its own line after "Answer:".'


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def run(*arguments: object) -> Done:
    return run_here("tools/prepare_data.py", *arguments)


@pytest.fixture
def dapo(tmp_path: Path) -> Path:
    """As the raw DAPO-17k: wrapped questions, each several times; two that contradict each other."""
    questions = [(f"What is ${i}+1$?", str(i + 1)) for i in range(20)] + [("What is x?", "1"), ("what is x", "2")]
    rows = [
        {
            "data_source": "math_dapo",
            "prompt": [{"content": f"{PREFIX}{question}{SUFFIX}", "role": "user"}],
            "ability": "MATH",
            "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
            "extra_info": {"index": f"uuid-{question}"},
        }
        for question, answer in questions * 3
    ]
    path = tmp_path / "dapo.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_dapo_becomes_a_training_file(dapo: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / name / "train.jsonl" for name in ("one", "two")]
    for output in outputs:
        arguments = ("tools/prepare_data.py", "--source", dapo, "--output", output, "--valid", 4)
        done = run_process(*arguments) if output is outputs[0] else run_here(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
    assert " read " in done.stdout
    assert "exact duplicate" in done.stdout
    rows = read_rows(DataSource(str(outputs[0]), "prompt", "answer", None), OnBadRow.error).rows
    assert all(row.question == f"What is ${int(row.answer) - 1}+1$?" for row in rows)
    assert json.loads(outputs[0].read_text().splitlines()[0])["id"].startswith("uuid-")
    manifest = json.loads((tmp_path / "one" / "train.jsonl.manifest.json").read_text())
    assert (manifest["prompt_key"], manifest["answer_key"]) == ("prompt", "reward_model.ground_truth")
    assert manifest["rows"]["dropped"] == {"exact duplicate": 44, "same question with different answers": 2}
    assert (manifest["rows"]["read"], manifest["rows"]["kept"], manifest["rows"]["held_out"]) == (66, 16, 4)
    for name in ("train.jsonl", "train_valid.jsonl", "train.jsonl.manifest.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert len(list((tmp_path / "one").iterdir())) == 3


def test_questions_of_a_benchmark_are_left_out_and_an_instruction_is_added(dapo: Path, tmp_path: Path) -> None:
    benchmark, output = tmp_path / "aime24.jsonl", tmp_path / "train.jsonl"
    benchmark.write_text(json.dumps({"question": "What is $7+1$?", "answer": "8"}))
    done = run("--source", dapo, "--output", output, "--exclude", benchmark, "--instruction", "--limit", 10)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["answer"] for row in rows] == ["1", "2", "3", "4", "5", "6", "7", "9", "10"]
    assert rows[0]["prompt"] == f"What is $0+1$?\n\n{INSTRUCTIONS[AnswerKind.math]}"


def test_benchmarks_of_the_hub_become_files_of_the_evaluation(tmp_path: Path) -> None:
    source = tmp_path / "aime.jsonl"
    source.write_text('{"problem": "1+1?", "solution": "as one sees", "answer": 2, "id": 60}\n')
    choices = {"label": ["A", "B"], "text": ["here", "there"]}
    questions = tmp_path / "csqa.parquet"
    row = {"id": "x", "question": "Where?", "question_concept": "w", "choices": choices, "answerKey": "B"}
    pq.write_table(pa.Table.from_pylist([row, row]), questions)
    for path, name in ((source, "aime24"), (questions, "commonsenseqa")):
        done = run("--source", path, "--output", tmp_path / "in" / f"{name}.jsonl", "--format", "benchmark")
        assert done.returncode == 0, done.stderr
    assert load_benchmark("aime24", tmp_path / "in", AnswerKind.math).problems[0].gold == "2"
    assert [problem.gold for problem in load_benchmark("commonsenseqa", tmp_path / "in", AnswerKind.math).problems] == [
        "B",
        "B",
    ]
    assert json.loads((tmp_path / "in" / "aime24.jsonl").read_text()) == {"question": "1+1?", "answer": "2", "id": "60"}
    pq.write_table(pa.Table.from_pylist([row, row | {"answerKey": ""}]), questions)  # the hub's test split
    done = run("--source", questions, "--output", tmp_path / "no.jsonl", "--format", "benchmark")
    assert done.returncode == 2
    assert "csqa.parquet:2: 'answerKey' is empty" in done.stderr
    assert not (tmp_path / "no.jsonl").exists()


def test_mistakes_are_one_line_and_write_nothing(dapo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    output, kept = folder / "train.jsonl", folder / "kept.jsonl"
    kept.write_text("mine")
    mistakes = [
        (("--source", tmp_path / "no.parquet", "--output", output), "there is no such file; correct the path"),
        (
            ("--source", dapo, "--output", kept),
            "kept.jsonl exists: choose another --output, or replace it with --force",
        ),
        (("--source", dapo, "--output", folder / "train.parquet"), "must end in .jsonl"),
        (("--source", kept, "--output", kept, "--force"), "kept.jsonl is also read"),
        (("--source", dapo, "--output", output, "--prompt-key", "quest"), "0 of 66 rows are left"),
        (("--source", dapo, "--output", output, "--valid", 20), "20 of 66 rows are left, with 20 to hold out"),
        (
            ("--source", dapo, "--output", output, "--format", "benchmark", "--valid", 2),
            "--valid is for training files",
        ),
        (("--source", kept, "--output", output), "kept.jsonl has no readable row"),
    ]
    for arguments, message in mistakes:
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == ["kept.jsonl"]
    assert kept.read_text() == "mine"


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_ended_leaves_no_output(tmp_path: Path, signum: signal.Signals) -> None:
    source, folder = tmp_path / "source.jsonl", tmp_path / "out"
    os.mkfifo(source)  # the run waits for more rows
    arguments = ["--source", str(source), "--output", str(folder / "train.jsonl"), "--format", "plain"]
    code = "import pathlib, runpy, sys; pathlib.Path.is_file = pathlib.Path.exists; sys.argv = sys.argv[1:]\n"
    code += "import s2l_nemo.data.prepare as p; p.file_hash = lambda path: ''\n"
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, "tools/prepare_data.py", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        with source.open("w") as pipe:
            for i in range(5000):
                pipe.write(json.dumps({"prompt": f"What is {i}+1?", "answer": str(i + 1)}) + "\n")
            pipe.flush()
            process.send_signal(signum)
            process.wait(timeout=600)
        assert process.returncode == (-9 if signum is signal.SIGKILL else 128 + signum)
        assert process.stdout is not None
        assert process.stdout.read() == ""
    assert list(folder.iterdir()) == []
