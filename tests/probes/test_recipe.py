"""`python recipes/probe.py` as a user runs it, on random models of 0.1 M parameters."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from recipes import probe
from s2l_nemo.platform.launch import STOP_SIGNALS
from tests.distributed.models import write_qwen3

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = ["prompts=2", "samples=2", "directions=1", "perturbations=1", "max_prompt_length=40", "max_response_length=10"]
PICTURES = ("prefix.png", "covariance.png", "growth.png", "gamma.png")


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    handlers = {signum: signal.getsignal(signum) for signum in STOP_SIGNALS}
    yield
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("family")
    learner = write_qwen3(folder / "learner", seed=0, hidden=32, layers=2)
    explorer = write_qwen3(folder / "explorer", seed=1, hidden=32, layers=1)
    return [f"model={learner}", f"explorer={explorer}"]


def test_files_and_tables(family: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert probe.main([*family, *SMALL, f"output={output}"]) == 0
    assert sorted(path.name for path in output.iterdir()) == sorted(("probe.json", "probe.csv", *PICTURES))
    for name in PICTURES:
        assert (output / name).read_bytes().startswith(b"\x89PNG")
    content = json.loads((output / "probe.json").read_text())
    figures = content["figures"]
    assert {one["probe"] for one in figures} == {"prefix", "covariance", "growth", "gamma"}
    assert {one["who"] for one in figures} == {"baseline", "high temperature", "explorer"}
    assert all(one["equation"] for one in figures)
    assert [one["rollouts"] for one in content["conditions"]] == [4, 4, 4]
    assert content["config"]["seed"] == 1
    assert len(content["prompt_ids"]) == len(content["reference_tokens"]) == 2
    (bound,) = [
        one["value"] for one in figures if (one["quantity"], one["who"], one["space"]) == ("B", "explorer", "logits")
    ]
    assert bound == 2**0.5
    with (output / "probe.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(figures)
    assert [row["quantity"] for row in rows] == [one["quantity"] for one in figures]
    shown = capsys.readouterr().out
    for number in range(1, 5):
        assert f"\n{number}. " in shown
    assert max(map(len, shown.splitlines())) <= 120


def test_without_an_explorer(family: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert probe.main([family[0], "explorer=null", *SMALL, f"output={output}"]) == 0
    content = json.loads((output / "probe.json").read_text())
    assert {one["who"] for one in content["figures"]} == {"baseline", "high temperature"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["samples=1"], "samples=1: must be at least 2"),
        (["high_temperature=1"], "high_temperature=1 is not above temperature=1: raise it"),
        (["sampels=2"], "unknown key sampels=2: the nearest known key is samples"),
        (["model=/nowhere"], "model=/nowhere is not a folder"),
        (["explorer=/nowhere"], "explorer=/nowhere is not a folder"),
        (["max_response_length=400"], "is more than the 256 positions"),
        (["max_prompt_length=1"], "no valid prompts"),
    ],
)
def test_a_mistake_is_one_line(
    family: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    output = tmp_path / "out"
    assert probe.main([*family, *SMALL, f"output={output}", *arguments]) == 2
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not output.exists()


def test_help_loads_no_model_library() -> None:
    code = (
        "import runpy, sys\nsys.argv = ['probe.py', '--help']\n"
        "try:\n    runpy.run_path('recipes/probe.py', run_name='__main__')\n"
        "except SystemExit as end:\n    print('exit', end.code, *sorted(sys.modules))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    shown, _, end = result.stdout.partition("exit 0 ")
    for key in ("model", "explorer", "samples", "scale", "output"):
        assert f"  {key}=" in shown
    assert not {"torch", "transformers", "datasets", "matplotlib"} & {*end.split()}
