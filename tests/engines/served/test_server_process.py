"""Servers that do not start: one line with the reason, and nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import pytest

from s2l_nemo.engines.served.environment import ROOT
from s2l_nemo.engines.served.process import Launch, ServerProcess
from s2l_nemo.engines.settings import EngineSettings
from s2l_nemo.errors import UserError
from s2l_nemo.models.precision import Precision
from s2l_nemo.types import Source

SETTINGS = EngineSettings(
    source=Source.EXPLORER,
    key="explorer.path",
    path="nowhere",
    precision=Precision.bf16,
    device="cpu",
    max_batch_rows=8,
    max_sequence_length=64,
    tensor_parallel_size=1,
    memory_fraction=0.4,
)


def start(tmp_path: Path, script: str | None = None, **changes: Any) -> ServerProcess:
    """`script`: what runs instead of a Python interpreter."""
    if script is not None:
        python = tmp_path / "python"
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
        changes["python"] = str(python)
    settings: dict[str, Any] = {
        "maker": "s2l_nemo.engines.tensorrt_llm.make:MAKER",
        "settings": SETTINGS,
        "python": sys.executable,
        "devices": None,
        "log": tmp_path / "explorer.log",
        "startup_s": 60.0,
    }
    return ServerProcess(Launch(**settings | changes))


def refusal(tmp_path: Path, script: str | None = None, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        start(tmp_path, script, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_interpreter_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    assert refusal(tmp_path, python="/nowhere/python") == (
        "engine.python=/nowhere/python cannot be run (No such file or directory): give a Python interpreter"
    )
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_process_that_ends(tmp_path: Path) -> None:
    (tmp_path / "explorer.log").write_text("of another run\n")
    assert refusal(tmp_path, "echo one >&2; printf 'two\\n\\nthree  x\\nfour\\n' >&2; exit 3") == (
        f"the explorer engine (explorer.path=nowhere) did not start: it ended; the log {tmp_path / 'explorer.log'} ends"
        " with: two | three x | four"
    )


def test_another_program(tmp_path: Path) -> None:
    assert f"engine.python={tmp_path / 'python'} wrote b'hello\\n'; the log" in refusal(tmp_path, "echo hello")


def test_a_process_that_never_answers(tmp_path: Path) -> None:
    message = refusal(tmp_path, f"echo $$ > {tmp_path / 'pid'}; sleep 1000 & echo loading >&2; wait", startup_s=0.5)
    assert "did not start within engine.startup_s=0.5 s" in message
    assert message.endswith("ends with: loading")
    group = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)


def test_an_engine_that_cannot_be_loaded(tmp_path: Path) -> None:
    """The reason comes from the real server: here, tensorrt_llm is not installed."""
    message = refusal(tmp_path)
    assert "(explorer.path=nowhere) did not start: " in message
    assert f"the log {tmp_path / 'explorer.log'} ends with: " in message
    assert "Traceback" in (tmp_path / "explorer.log").read_text()


ENGINE = """
import sys, time
from s2l_nemo.engines.served.supervisor import supervise
status = supervise(sys.argv[3])
if status is not None:
    sys.exit(status)
print('{"port": 1}', flush=True)
time.sleep(1000)
"""


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServerProcess:
    """With an engine that has loaded nothing, and the temporary folder `temporary`."""
    (tmp_path / "engine.py").write_text(ENGINE)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return start(tmp_path, f'exec {sys.executable} {tmp_path}/engine.py "$@"')


def test_a_stopped_supervisor_ends_its_engine(tmp_path: Path, process: ServerProcess) -> None:
    supervisor = psutil.Process(process._process.pid)
    [engine] = supervisor.children()
    supervisor.suspend()
    process.end()
    assert not engine.is_running()
    assert process._process.returncode == 128 + signal.SIGTERM  # it was the supervisor that ended the engine
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_killed_supervisor_leaves_no_folder(tmp_path: Path, process: ServerProcess) -> None:
    supervisor = psutil.Process(process._process.pid)
    [engine] = supervisor.children()
    assert len(list((tmp_path / "temporary").iterdir())) == 1
    supervisor.kill()
    process.end()
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE
    assert list((tmp_path / "temporary").iterdir()) == []


def test_the_supervisor_imports_no_torch() -> None:
    code = "import s2l_nemo.engines.served.server, sys\n"
    code += "print(sorted({'torch', 'numpy', 's2l_nemo.types'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown == "[]\n"
