"""`python recipes/diversity.py` as a user runs it, on hand-made outputs; the tokenizer gives a token for every byte."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributed.models import write_tokenizer

ROOT = Path(__file__).resolve().parent.parent.parent
main = runpy.run_path(str(ROOT / "recipes" / "diversity.py"))["main"]


def write_raw(run: Path, outputs: list[list[str]], benchmark: str = "aime24") -> Path:
    run.mkdir(parents=True, exist_ok=True)
    rows = [
        {"id": index, "question": f"Q{index}", "answer": "7", "outputs": texts} for index, texts in enumerate(outputs)
    ]
    (run / f"{benchmark}_raw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two problems: the same text twice; two texts without a common byte, one with an answer."""
    return write_raw(tmp_path / "small_20260101-120000", [["abcdef", "abcdef"], [r"\boxed{7}", "ghijkmnpq"]])


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Two problems: the same answer in two spellings; the same text twice, and a third that is not looked at."""
    return write_raw(tmp_path / "large_20260101-130000", [[r"\boxed{1,000}", r"\boxed{1000}"], ["ab", "ab", "xyz"]])


def test_table_json_and_picture(
    tokenizer: Path, small: Path, large: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert main([f"runs=[{small},{large}]", f"tokenizer={tokenizer}", "samples=2", f"output={output}"]) == 0
    content = json.loads((output / "diversity.json").read_text())
    first, second = content["models"]
    assert [first["name"], first["benchmark"], first["problems"], first["samples"]] == ["small", "aime24", 2, 2]
    assert first["self_bleu"] == pytest.approx({"mean": 0.5, "low": 0.0, "high": 1.0})
    assert first["edit"] == pytest.approx({"mean": 0.5, "low": 0.0, "high": 1.0})
    assert first["unique"] == pytest.approx({"mean": 0.75, "low": 0.5, "high": 1.0})
    # One comma in 13 characters; the same two characters, which have no trigram: (1 * 1 * 0.1 * 0.1)^(1/4).
    assert second["name"] == "large"
    assert second["edit"]["mean"] == pytest.approx(1 / 26)
    assert second["self_bleu"]["low"] == pytest.approx(0.1**0.5)
    assert second["unique"] == {"mean": 0.5, "low": 0.5, "high": 0.5}
    assert (output / "diversity.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in output.iterdir()) == ["diversity.json", "diversity.png"]
    shown = capsys.readouterr().out
    assert "Diversity on aime24: 2 problems, K = 2" in shown
    assert "0.750 [0.500, 1.000]" in shown
    assert all(formula[:60] in shown for formula in content["formulas"])


def test_letters_are_the_answers_of_multiple_choice(tokenizer: Path, tmp_path: Path) -> None:
    run = write_raw(tmp_path / "m", [["The answer is (A).", r"so \boxed{A}", r"\boxed{B}"]], "commonsenseqa")
    assert main([f"runs=[{run}]", f"tokenizer={tokenizer}", "samples=3", f"output={tmp_path / 'out'}"]) == 0
    (row,) = json.loads((tmp_path / "out" / "diversity.json").read_text())["models"]
    assert row["unique"]["mean"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(("answer", "unique"), [(None, 1.0), ("math", 1.0), ("exact", 1.0), ("choice", 0.5)])
def test_answers_of_a_benchmark_of_ones_own_are_what_its_evaluation_says(
    tokenizer: Path, tmp_path: Path, answer: str | None, unique: float
) -> None:
    run = write_raw(tmp_path / "m", [[r"\boxed{A}", r"\boxed{A. here}"]], "mine")
    if answer is not None:
        (run / "config.txt").write_text(f"rewards:\n  answer: {answer}\n")
    assert main([f"runs=[{run}]", f"tokenizer={tokenizer}", "samples=2", f"output={tmp_path / 'out'}"]) == 0
    (row,) = json.loads((tmp_path / "out" / "diversity.json").read_text())["models"]
    assert row["unique"]["mean"] == unique


def test_tokenizer_of_the_first_model_that_is_still_there(
    tokenizer: Path, small: Path, large: Path, tmp_path: Path
) -> None:
    (small / "config.txt").write_text("model: /nowhere\nname: small\n")
    (large / "config.txt").write_text(f"model: {tokenizer}\nname: large\n")
    assert main([f"runs=[{small},{large}]", "samples=2", f"output={tmp_path / 'out'}"]) == 0


def test_names_are_shown_as_they_are(tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_raw(tmp_path / "[b]old", [["a", "b"]])
    assert main([f"runs=['{run}']", f"tokenizer={tokenizer}", "samples=2", f"output={tmp_path / 'out'}"]) == 0
    assert "[b]old" in capsys.readouterr().out


def test_runs_of_one_name_keep_their_times(tokenizer: Path, small: Path, tmp_path: Path) -> None:
    later = write_raw(tmp_path / "small_20260101-140000", [["a", "b"], ["c", "d"]])
    assert main([f"runs=[{small},{later}]", f"tokenizer={tokenizer}", "samples=2", f"output={tmp_path / 'out'}"]) == 0
    rows = json.loads((tmp_path / "out" / "diversity.json").read_text())["models"]
    assert [row["name"] for row in rows] == [small.name, later.name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "runs is empty"),
        (["runs=null"], "expected list of text, [a,b]"),
        (["runs={small}"], "problem 0 has 2 outputs, fewer than samples=64"),
        (["runs={small}", "answer=word"], "answer=word: expected math | choice | exact or null"),
        (["runs=[{small}]", "sampels=2"], "unknown key sampels=2: the nearest known key is samples"),
        (["runs=[{small}]", "samples=many"], "samples=many: expected integer"),
        (["runs=[{small}]", "samples=1"], "samples=1: must be at least 2"),
        (["runs=[{small}]"], "problem 0 has 2 outputs, fewer than samples=64"),
        (["runs=[{small}", "samples=2"], "as key=value"),
        (["{small}"], "as key=value"),
        (["runs=[/nowhere]"], "/nowhere holds no *_raw.jsonl"),
        (["runs=[{small}]", "benchmark=math500"], "math500_raw.jsonl"),
        (["runs=[{small},{other}]", "samples=2"], "no benchmark in common"),
        (["runs=[{both}]", "samples=2"], "give benchmark=aime24 or math500"),
        (["runs=[{small},{both}]", "samples=2"], "has other problems than"),
        (["runs=[{broken}]", "samples=2"], "aime24_raw.jsonl:1: "),
        (["runs=[{empty}]", "samples=2"], "aime24_raw.jsonl is empty"),
        (["runs=[{small}]", "samples=2"], "give tokenizer=PATH"),
        (["runs=[{small}]", "samples=2", "tokenizer=/nowhere"], "/nowhere"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_is_one_line(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    other = write_raw(tmp_path / "other", [["a", "b"], ["a", "b"]], "math500")
    both = write_raw(tmp_path / "both", [["a", "b"], ["a", "b"]], "math500")
    write_raw(both, [["a", "b"]])
    empty, broken = write_raw(tmp_path / "empty", []), write_raw(tmp_path / "broken", [])
    (broken / "aime24_raw.jsonl").write_text('{"question": "Q"}\n')
    places = {"small": small, "other": other, "both": both, "empty": empty, "broken": broken}
    output = tmp_path / "out"
    assert main([*(argument.format(**places) for argument in arguments), f"output={output}"]) == 2
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert shown.out == ""
    assert not output.exists()


def test_help_loads_no_model_library() -> None:
    code = (
        "import runpy, sys\nsys.argv = ['diversity.py', '--help']\n"
        "try:\n    runpy.run_path('recipes/diversity.py', run_name='__main__')\n"
        "except SystemExit as end:\n    print('exit', end.code, *sorted(sys.modules))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    shown, _, end = result.stdout.partition("exit 0 ")
    for key in ("runs", "benchmark", "tokenizer", "samples", "output"):
        assert f"  {key}=" in shown
    assert not {"torch", "transformers", "datasets", "matplotlib", "sympy", "math_verify", "nltk"} & {*end.split()}
