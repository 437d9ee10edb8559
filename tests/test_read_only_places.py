"""Commands of a user who may not write everywhere: one line and nothing left, or they work from any folder.

Tests may run as root, to whom all is allowed: the processes here give up root's right to pass by permissions.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.distributed.models import write_qwen3

ROOT = Path(__file__).resolve().parent.parent
PLAIN = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"] if os.getuid() == 0 else []
pytestmark = pytest.mark.skipif(bool(PLAIN) and shutil.which("setpriv") is None, reason="root, and no setpriv")


def run(*arguments: str, cwd: str = "/", without: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    script, *rest = arguments
    environment = {name: value for name, value in os.environ.items() if name not in without}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [*PLAIN, sys.executable, str(ROOT / script), *rest]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_qwen3(tmp_path_factory.mktemp("models") / "learner", seed=0))


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """A folder in which this user may not write."""
    folder = tmp_path / "closed (2) é"
    folder.mkdir()
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


@pytest.fixture
def rows(tmp_path: Path) -> str:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "1+1=", "answer": "2"}\n{"prompt": "1+2=", "answer": "3"}\n', encoding="utf-8")
    (tmp_path / "bench.jsonl").write_text('{"question": "1+1=", "answer": "2"}\n', encoding="utf-8")
    return str(file)


SMALL = [
    "algorithm.steps=1", "algorithm.prompts_per_step=2", "algorithm.group_size=2", "model.micro_batch_size=2",
    "rollout.max_prompt_length=40", "rollout.max_response_length=8", "validation.prompts=2", "validation.samples=1",
    "trainer.devices=1",
]  # fmt: skip
COMMANDS = {
    "train": ["recipes/train_s2l.py", *SMALL, "model.path={model}", "explorer.path={model}", "run.dir={out}"],
    "to_nemo": ["tools/convert_hf_to_nemo.py", "--input", "{model}", "--output", "{out}"],
    "prepare": ["tools/prepare_data.py", "--source", "{rows}", "--output", "{out}.jsonl"],
    "sample": ["recipes/sample_explorer.py", "model={model}", "data.path={rows}", "output={out}"],
    "tiny_family": ["tools/make_tiny_family.py", "--output", "{out}"],
    "to_hf": ["tools/convert_nemo_to_hf.py", "--input", "{model}", "--output", "{out}"],
    "evaluate": [
        "recipes/evaluate.py", "model={model}", "evaluate.data={folder}", "benchmarks=[bench]", "k=1",
        "evaluate.dir={out}",
    ],
    "probe": ["recipes/probe.py", "model={model}", "output={out}"],
    "diversity": ["recipes/diversity.py", "runs=[{folder},{model}]", "output={out}"],
    "reproduce": ["recipes/reproduce.py", "experiments=[grpo]", "dir={out}"],
}  # fmt: skip
BOTH = ["train", "to_nemo", "prepare", "sample", "tiny_family"]


@pytest.mark.parametrize(("command", "below"), [*((one, "new") for one in COMMANDS), *((one, "a/b") for one in BOTH)])
def test_a_place_that_cannot_be_written_is_one_line(
    closed: Path, rows: str, model: str, command: str, below: str
) -> None:
    folder = Path(rows).parent
    done = run(*(one.format(model=model, rows=rows, folder=folder, out=closed / below) for one in COMMANDS[command]))
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert str(closed) in line
    assert "unknown" not in line  # the mistake is the place
    assert not any(closed.iterdir())


@pytest.mark.parametrize("script", ["tools/plan.py", "tools/simulate.py"])
def test_what_writes_nothing_works_in_a_closed_folder_without_a_home(closed: Path, script: str) -> None:
    small = [] if script == "tools/plan.py" else ["gpus=[8]", "steps=2"]
    done = run(script, "conf=paper", *small, cwd=str(closed), without=("HOME",))
    assert (done.returncode, done.stderr) == (0, "")
    assert not any(closed.iterdir())


@pytest.fixture(scope="module")
def closed_clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A clone that is not this user's: nothing in it may be written."""
    clone = tmp_path_factory.mktemp("clone")
    for name in ("conf", "recipes", "s2l_nemo"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    folders = [clone, *(path for path in clone.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    yield clone
    for folder in folders:
        folder.chmod(0o755)


def test_a_run_from_anothers_clone_without_a_home_through_a_link(
    closed: Path, closed_clone: Path, tmp_path: Path, model: str
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    keys = [*SMALL, f"model.path={model}", f"explorer.path={model}", f"run.dir={tmp_path / 'link' / 'run'}"]
    script = str(closed_clone / "recipes" / "train_s2l.py")
    done = run(script, *keys, cwd=str(closed), without=("HOME", "PYTHONPATH"))
    assert done.returncode == 0, done.stderr
    real = tmp_path / "disk" / "run"
    assert (real / "final.nemo").is_file()
    assert [json.loads(line)["step"] for line in (real / "metrics.jsonl").read_text().splitlines()] == [1]
    assert not any(closed.iterdir())
    assert not list(closed_clone.rglob("__pycache__"))


@pytest.mark.usefixtures("rows")
def test_links_in_a_circle_are_one_line(tmp_path: Path, model: str) -> None:
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    for command in (
        ["tools/convert_hf_to_nemo.py", "--input", str(circle), "--output", str(tmp_path / "out")],
        ["tools/convert_hf_to_nemo.py", "--input", model, "--output", str(circle)],
        ["tools/prepare_data.py", "--source", str(circle), "--output", str(tmp_path / "out.jsonl")],
        ["recipes/evaluate.py", f"model={circle}", f"evaluate.data={tmp_path}", "benchmarks=[bench]", "k=1"],
        ["recipes/train_s2l.py", *SMALL, f"model.path={model}", f"explorer.path={model}", f"run.dir={circle}"],
    ):
        done = run(*command, cwd=str(tmp_path))
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")
        assert str(circle) in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.jsonl", "circle", "rows.jsonl"]
