"""Commands of a user who may not write everywhere: one line and nothing left, or they work from any folder.

Tests may run as root, to whom all is allowed: the processes here give up root's right to pass by permissions.
"""

from __future__ import annotations

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
}


@pytest.mark.parametrize("below", ["new", "a/b"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_that_cannot_be_written_is_one_line(
    closed: Path, rows: str, model: str, command: str, below: str
) -> None:
    done = run(*(one.format(model=model, rows=rows, out=closed / below) for one in COMMANDS[command]))
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert str(closed) in line
    assert "unknown" not in line  # the mistake is the place
    assert not any(closed.iterdir())
