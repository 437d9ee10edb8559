"""`evaluate.rescore=DIR`: figures of hand-worked files, without torch; every mistake is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Done, run_here, run_process


def write_raw(folder: Path, benchmark: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"{benchmark}_raw.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def box(*answers: str) -> list[str]:
    return [f"So it is $\\boxed{{{answer}}}$." for answer in answers]


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Two files as others write them; no problem of AIME's second half has been answered."""
    folder = tmp_path / "qwen_nothink"
    folder.mkdir()
    write_raw(folder, "aime24", [
        {"question": "a", "answer": "204", "outputs": [*box("204", "7", "204"), "no box"]},
        {"question": "b", "answer": 113, "outputs": box("1", "1", "113", "113")},
        {"question": "c", "answer": "5", "outputs": []},
        {"question": "d", "answer": r"\frac{1}{2}", "outputs": box("1/2", r"\frac12", "0.5", r"\frac{2}{4}")},
    ])  # fmt: skip
    write_raw(folder, "commonsenseqa", [
        {"id": "x", "question": "e", "answer": "A", "outputs": box("A", "B"), "tokens": [10, 20],
         "finish_reasons": ["stop", "length"]},
        {"id": "y", "question": "f", "answer": "C", "outputs": box("C", "C", "D"), "tokens": [30, 40, 50],
         "finish_reasons": ["stop"] * 3},
    ])  # fmt: skip
    (folder / "config.txt").write_text("of someone else")
    return folder


def run(*arguments: object) -> Done:
    return run_here("recipes/evaluate.py", *arguments)


def without_gpu_libraries(folder: Path) -> dict[str, str]:
    """An environment, for workers too, in which importing a model library fails."""
    for name in ("torch", "transformers", "datasets", "tokenizers", "safetensors", "megatron", "nemo"):
        (folder / "absent" / name).mkdir(parents=True)
        (folder / "absent" / name / "__init__.py").write_text(f"raise ImportError('{name} must not be imported')\n")
    return {"PYTHONPATH": str(folder / "absent")}


def test_hand_worked_figures(outputs: Path, tmp_path: Path) -> None:
    done = run_process(
        "recipes/evaluate.py", f"evaluate.rescore={outputs}", environment=without_gpu_libraries(tmp_path)
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in (outputs / "result").iterdir()} == {
        "aime24.json", "aime24.jsonl", "commonsenseqa.json", "commonsenseqa.jsonl", "pass_at_k.png", "summary.json",
    }  # fmt: skip
    aime = json.loads((outputs / "result" / "aime24.json").read_text())
    assert (aime["name"], aime["benchmark"], aime["mode"]) == ("qwen_nothink", "aime24", None)
    assert (aime["problems"], aime["samples"], aime["without_predictions"]) == (4, 4, 1)
    assert aime["correct"] == [[1, 0, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]]
    assert aime["ids"] == [0, 1, 2, 3]
    # 2 of 4 right: pass@2 = 1 - C(2, 2) / C(4, 2) = 5/6
    assert {k: value["mean"] for k, value in aime["pass@k"].items()} == pytest.approx(
        {"1": (1 / 2 + 1 / 2 + 0 + 1) / 4, "2": (5 / 6 + 5 / 6 + 0 + 1) / 4, "4": (1 + 1 + 0 + 1) / 4}
    )
    assert aime["pass@1"] == aime["pass@k"]["1"]
    assert 0 <= aime["pass@1"]["low"] < 0.5 < aime["pass@1"]["high"] <= 1
    assert aime["majority@4"]["mean"] == pytest.approx((1 + 1 / 2 + 0 + 1) / 4)  # the second problem is a tie
    assert aime["no_answer_fraction"] == pytest.approx(1 / 12)
    assert (aime["mean_tokens"], aime["truncated_fraction"], aime["grader_errors"]) == (None, None, 0)

    choice = json.loads((outputs / "result" / "commonsenseqa.json").read_text())
    assert (choice["samples"], choice["most_samples"], choice["ids"]) == (2, 3, ["x", "y"])
    assert choice["correct"] == [[1, 0], [1, 1, 0]]
    assert list(choice["pass@k"]) == ["1", "2"]
    assert choice["pass@1"]["mean"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert choice["pass@k"]["2"]["mean"] == pytest.approx(1)
    assert choice["majority@2"]["mean"] == pytest.approx((1 / 2 + 1) / 2)
    assert (choice["mean_tokens"], choice["truncated_fraction"]) == (30, pytest.approx(1 / 5))

    summary = json.loads((outputs / "result" / "summary.json").read_text())
    assert summary["average_pass@1"] == pytest.approx((1 / 2 + 7 / 12) / 2)
    assert summary["benchmarks"]["aime24"]["pass@4"] == pytest.approx(3 / 4)
    assert summary["benchmarks"]["commonsenseqa"]["majority@2"] == pytest.approx(3 / 4)

    graded = [json.loads(line) for line in (outputs / "result" / "aime24.jsonl").read_text().splitlines()]
    assert graded[0]["extracted"] == ["204", "7", "204", None]
    assert graded[0]["rewards"] == [1.0, 0.0, 1.0, 0.0]
    assert graded[2]["extracted"] == graded[2]["rewards"] == graded[2]["errors"] == []
    assert "commonsenseqa: problems have 2 to 3 samples, so pass@k goes up to k = 2" in done.stdout
    assert "aime24: problems without predictions, which count as wrong: 1" in done.stdout


def test_twice_gives_the_same_bytes_and_k_takes_the_first_samples(outputs: Path) -> None:
    def files() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (outputs / "result").iterdir()}

    assert run(f"evaluate.rescore={outputs}", "name=mine").returncode == 0
    once = files()
    assert run(f"evaluate.rescore={outputs}", "name=mine", "rewards.workers=1").returncode == 0
    assert files() == once
    assert json.loads(once["aime24.json"])["name"] == "mine"
    assert run(f"evaluate.rescore={outputs}", "k=2").returncode == 0
    choice = json.loads(files()["commonsenseqa.json"])
    assert choice["correct"] == [[1, 0], [1, 1]]
    assert choice["mean_tokens"] == (10 + 20 + 30 + 40) / 4


def test_custom_rewards_and_partial_marks(outputs: Path, tmp_path: Path) -> None:
    (tmp_path / "my_rewards.py").write_text(
        "def half(response, answer, prompt):\n"
        "    return 1 / 0 if prompt == 'd' else {'a': 1.0, 'b': 0.5}.get(prompt, 0.0)\n"
    )
    arguments = (f"evaluate.rescore={outputs}", "rewards.fn=my_rewards:half")
    done = run_process("recipes/evaluate.py", *arguments, environment={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    aime = json.loads((outputs / "result" / "aime24.json").read_text())
    assert aime["correct"] == [[1] * 4, [0] * 4, [0] * 4, [0] * 4]
    assert aime["grader_errors"] == 4
    assert (
        "aime24: answers that could not be checked and count as wrong: 4, the first with 'ZeroDivisionError: division "
        "by zero' (see errors in aime24.jsonl)"
    ) in done.stdout


def test_f20_a_reward_function_that_always_fails_is_one_line_and_the_reasons_stay(
    outputs: Path, tmp_path: Path
) -> None:
    (tmp_path / "failing_rewards.py").write_text("def fails(response, answer, prompt):\n    return {}['gone']\n")
    arguments = (f"evaluate.rescore={outputs}", "rewards.fn=failing_rewards:fails")
    done = run_process("recipes/evaluate.py", *arguments, environment={"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "checks failed, the first with \"KeyError: 'gone'\": mend what checks (rewards.fn)" in done.stderr
    assert "KeyError" in (outputs / "result" / "aime24.jsonl").read_text()
    assert not (outputs / "result" / "aime24.json").exists()


def test_what_is_wrong_is_said_in_one_line_and_nothing_is_written(outputs: Path, tmp_path: Path) -> None:
    def error(*arguments: object) -> str:
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert not (outputs / "result").exists()
        return line

    assert "has no file *_raw.jsonl" in error(f"evaluate.rescore={tmp_path}")
    assert f"k=3: {outputs / 'commonsenseqa_raw.jsonl'} has a problem with 2 samples" in error(
        f"evaluate.rescore={outputs}", "k=3"
    )
    write_raw(outputs, "empty", [{"question": "q", "answer": "1", "outputs": []}])
    assert "empty_raw.jsonl holds no predictions" in error(f"evaluate.rescore={outputs}")
    (outputs / "empty_raw.jsonl").write_text('{"question": "q"}\n')
    assert "empty_raw.jsonl:1: no key 'answer'" in error(f"evaluate.rescore={outputs}")
