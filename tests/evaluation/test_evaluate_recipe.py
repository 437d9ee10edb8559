"""`recipes/evaluate.py` as a user runs it, with a tiny random model: files, SIGKILL and continuation, mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from s2l_nemo.config.evaluation import EvaluateConfig
from s2l_nemo.config.load import load_values
from s2l_nemo.errors import UserError
from s2l_nemo.evaluation.folder import hash_model
from s2l_nemo.evaluation.modes import settings
from s2l_nemo.evaluation.run import Question, evaluate, make_identity, read_benchmarks
from s2l_nemo.models.open import open_model
from s2l_nemo.models.precision import Precision
from tests.commands import ROOT, Done, run_here
from tests.distributed.models import write_qwen3

K, PROBLEMS = 2, 12


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and two benchmarks. The model answers nonsense, whose length differs."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_qwen3(folder / "model", seed=0, layers=2, sliding_window=None)
    (folder / "data").mkdir()
    for name, problems in (("sums", PROBLEMS), ("more", 2)):
        rows = [{"question": f"{name} {i} + 2 = ?", "answer": i + 2} for i in range(problems)]
        (folder / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def command(workplace: Path, root: str, *arguments: str) -> list[str]:
    return [
        sys.executable, "recipes/evaluate.py", f"model={workplace / 'model'}", "benchmarks=[sums,more]", f"k={K}",
        "evaluate.batch_rows=1", "evaluate.max_tokens=20", f"evaluate.data={workplace / 'data'}",
        f"evaluate.dir={workplace / root}", *arguments,
    ]  # fmt: skip


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def run(workplace: Path, root: str, *arguments: str) -> Done:
    return run_here(*command(workplace, root, *arguments)[1:])


def run_process(workplace: Path, root: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(workplace, root, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=600, env=ENVIRONMENT,
        check=False,
    )  # fmt: skip


def start(workplace: Path, root: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(workplace, root), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )


def files(root: Path) -> dict[str, bytes]:
    """All files by their path, in which model_TIME has become model."""
    return {
        "/".join(
            "model" if part.startswith("model_") else part for part in path.relative_to(root).parts
        ): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def uninterrupted(workplace: Path) -> dict[str, bytes]:
    done = run(workplace, "whole")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"sums  {PROBLEMS}/{PROBLEMS} problems" in done.stdout
    return files(workplace / "whole")


def test_files_of_a_run(uninterrupted: dict[str, bytes]) -> None:
    assert sorted(uninterrupted) == [
        "output/model/config.txt", "output/model/more.jsonl", "output/model/more_raw.jsonl", "output/model/sums.jsonl",
        "output/model/sums_raw.jsonl", "result/model/more.json", "result/model/pass_at_k.png",
        "result/model/summary.json", "result/model/sums.json",
    ]  # fmt: skip
    rows = [json.loads(line) for line in uninterrupted["output/model/sums_raw.jsonl"].splitlines()]
    assert [row["id"] for row in rows] == list(range(PROBLEMS))
    assert all(len(row[key]) == K for row in rows for key in ("outputs", "tokens", "finish_reasons"))
    assert rows[3]["answer"] == "5"
    assert {tokens for row in rows for tokens in row["tokens"]} > {20}
    assert len({output for row in rows for output in row["outputs"]}) == PROBLEMS * K
    result = json.loads(uninterrupted["result/model/sums.json"])
    assert (result["name"], result["benchmark"], result["mode"], result["seed"]) == ("model", "sums", "nothink", 1)
    assert (result["problems"], result["samples"], result["max_tokens"]) == (PROBLEMS, K, 20)
    assert list(result["pass@k"]) == ["1", "2"]
    assert set(json.loads(uninterrupted["result/model/summary.json"])["benchmarks"]) == {"sums", "more"}
    config = yaml.safe_load(uninterrupted["output/model/config.txt"])
    assert config["evaluate"]["presence_penalty"] == 1.5
    assert config["evaluate"]["precision"] in ("fp32", "bf16")
    assert (config["k"], config["mode"], config["name"]) == ({"sums": K, "more": K}, "nothink", "model")
    assert config["versions"]["packages"]["torch"]


def test_sigkill_and_again_gives_the_same_files(workplace: Path, uninterrupted: dict[str, bytes]) -> None:
    with start(workplace, "killed") as process:
        while not (found := [path for path in workplace.glob("killed/output/*/sums_raw.jsonl") if path.stat().st_size]):
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        process.kill()
    raw = found[0]
    rows = raw.read_bytes().splitlines(keepends=True)
    assert 0 < len(rows) < PROBLEMS
    # a chunk has 2 problems: whatever the moment of the kill, leave one and a half and a torn line
    whole = uninterrupted["output/model/sums_raw.jsonl"].splitlines(keepends=True)
    assert whole[: len(rows)] == rows
    raw.write_bytes(b"".join(whole[:3]) + whole[3][:40])
    done = run_process(workplace, "killed")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"continues in {raw.parent}" in done.stdout
    assert "sums   2/12 problems" not in done.stdout
    assert "sums   6/12 problems" in done.stdout
    again = files(workplace / "killed")
    assert without_git(again) == without_git(uninterrupted)


def without_git(contents: dict[str, bytes]) -> dict[str, object]:
    """The commit of a working copy may change between two runs."""
    config = yaml.safe_load(contents["output/model/config.txt"])
    del config["versions"]["git"]
    return {**contents, "output/model/config.txt": config}


@pytest.mark.usefixtures("uninterrupted")
def test_a_finished_run_is_not_repeated(workplace: Path) -> None:
    times = {path: path.stat().st_mtime_ns for path in (workplace / "whole").rglob("*")}
    done = run(workplace, "whole")
    assert done.returncode == 0
    assert "already finished" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in (workplace / "whole").rglob("*")} == times


def test_ctrl_c_says_how_to_continue(workplace: Path) -> None:
    with start(workplace, "interrupted") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "Evaluation\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=600)
    assert process.returncode == 130
    assert errors == "interrupted: the same command continues the evaluation\n"


def test_a_mistake_is_one_line(workplace: Path) -> None:
    done = run_process(workplace, "mistakes", "model=/nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: model=/nowhere is not a folder")
    assert not (workplace / "mistakes").exists()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("benchmarks=[nothing]", "no benchmark 'nothing'"),
        ("rewards.fn=no_such_module:f", "no_such_module"),
        ("evaluate.data=/nowhere", "/nowhere"),
    ],
)
def test_mistakes_leave_nothing(workplace: Path, argument: str, message: str) -> None:
    cfg = load_values([*command(workplace, "mistakes")[2:], argument], EvaluateConfig, "")
    with pytest.raises(UserError, match=message):
        evaluate(cfg)
    assert not (workplace / "mistakes").exists()


def test_what_makes_an_evaluation_another_one(workplace: Path) -> None:
    def identity(*arguments: str) -> str:
        cfg = load_values([*command(workplace, "any")[2:], *arguments], EvaluateConfig, "")
        question = Question(cfg, read_benchmarks(cfg), settings(cfg.mode, cfg.evaluate), "cpu", Precision.fp32)
        wanted = make_identity(question, {"model": hash_model(open_model("model", str(cfg.model)))})
        assert yaml.safe_load(yaml.safe_dump(wanted)) == wanted
        return json.dumps(wanted)

    first = identity()
    assert identity("evaluate.dir=elsewhere") == first
    assert identity("evaluate.presence_penalty=1.5", "name=model", "steps=all", "engine.startup_s=9") == first
    changes = ("k=3", "seed=2", "mode=think", "evaluate.limit=1", "evaluate.temperature=0.5", "evaluate.batch_rows=2",
               "evaluate.prompt=plain", "engine.kind=server")  # fmt: skip
    assert len({first, *map(identity, changes)}) == 1 + len(changes)
    weights = workplace / "model" / "model.safetensors"
    before = weights.read_bytes()
    try:
        weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        assert identity() != first
    finally:
        weights.write_bytes(before)
    assert identity() == first
