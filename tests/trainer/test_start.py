"""What is checked before any rank starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.config.schema import Accelerator, Config, Resume, RunConfig
from s2l_nemo.errors import UserError
from s2l_nemo.trainer import start

ROOT = Path(__file__).resolve().parents[2]


def config(devices: int, **engine: Any) -> Config:
    cfg = Config()
    cfg.trainer.devices = devices
    for key, value in engine.items():
        setattr(cfg.engine, key, value)
    return cfg


def test_enough_gpus() -> None:
    start.check_gpus(config(2), ["0", "1"])
    start.check_gpus(config(2), ["6", "7", "0"])
    start.check_gpus(config(2, explorer_devices="2", learner_devices="3"), ["0", "1", "2", "3"])
    start.check_gpus(config(2, explorer_devices="0", learner_devices="1"), ["4", "5"])


def test_more_ranks_than_gpus() -> None:
    with pytest.raises(UserError) as caught:
        start.check_gpus(config(2), ["0"])
    assert str(caught.value) == (
        "trainer.devices=2, but PyTorch sees 1 GPUs on this node: set trainer.devices to at most 1, or let every "
        "process see all of them (CUDA_VISIBLE_DEVICES)"
    )


def test_more_servers_than_gpus() -> None:
    engine = {"replicas_per_node": 2, "tensor_parallel_size": 2}
    with pytest.raises(UserError, match=r"need 4 GPUs, and the trainer sees 2 \(0,1\)"):
        start.check_gpus(config(2, kind="tensorrt_llm", **engine), ["0", "1"])
    start.check_gpus(config(2, **engine), ["0", "1"])  # an embedded engine is on the GPU of its rank


def test_servers_on_gpus_of_the_ranks() -> None:
    with pytest.raises(UserError) as caught:
        start.check_gpus(config(2, explorer_devices="6, 7", learner_devices="5,4"), ["4", "5", "6", "7"])
    assert str(caught.value) == (
        "engine.learner_devices=5,4: the trainer's ranks use GPU 4, 5; give the servers others, or set "
        "engine.placement=colocated"
    )


def test_the_servers_interpreter_is_looked_for_before_anything_is_read(tmp_path: Path) -> None:
    cfg = config(1, kind="server", python=f"{tmp_path}/python")
    cfg.trainer.accelerator = Accelerator.auto
    nothing: Any = None
    with pytest.raises(UserError) as caught:
        start.start(cfg, nothing)
    assert str(caught.value) == f"engine.python={tmp_path}/python cannot be run: give a Python interpreter"


def test_the_gpus_are_counted_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cfg = config(2)
    cfg.trainer.accelerator = Accelerator.gpu
    nothing: Any = None
    with pytest.raises(UserError, match=r"^trainer\.devices=2, but PyTorch sees 1 GPUs on this node"):
        start.start(cfg, nothing)


def codes_of(*codes: int, max_restarts: int) -> tuple[int, list[Resume]]:
    """The exit code of a run whose starts end with these codes, and how each of them was to resume."""
    left, resumes = list(codes), []
    run = RunConfig(max_restarts=max_restarts, resume=Resume.never)

    def launched() -> int:
        resumes.append(run.resume)
        return left.pop(0)

    code = start.repeated(launched, run)
    assert not left
    return code, resumes


def test_only_a_crash_is_started_again_and_continues(capfd: pytest.CaptureFixture[str]) -> None:
    assert codes_of(1, max_restarts=0) == (1, [Resume.never])
    assert capfd.readouterr().err == ""
    assert codes_of(1, 1, 0, max_restarts=3) == (0, [Resume.never, Resume.auto, Resume.auto])
    assert capfd.readouterr().err.splitlines() == [f"restart {n} of 3, from the last checkpoint" for n in (1, 2)]
    assert codes_of(1, 1, max_restarts=1)[0] == 1
    for code in (0, 2, 3, 143):
        assert codes_of(code, max_restarts=3) == (code, [Resume.never])


def test_a_restart_of_torchrun_continues_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert codes_of(0, max_restarts=0) == (0, [Resume.never])
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert codes_of(0, max_restarts=0) == (0, [Resume.auto])


def test_f13_who_has_no_home_gets_one_before_nemo_looks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/dev/null/none")
    for name in ("XDG_CACHE_HOME", "TRITON_CACHE_DIR", "FLASHINFER_WORKSPACE_BASE", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    nothing: Any = None
    with pytest.raises(UserError, match="cannot be run"):
        start.start(config(1, kind="server", python=f"{tmp_path}/python"), nothing)
    assert os.environ["HOME"] == f"{tmp_path}/s2l_nemo_{os.getuid()}"


@pytest.mark.nemo
def test_f13_nemo_is_imported_by_who_has_no_home(tmp_path: Path) -> None:
    code = (
        "from s2l_nemo.engines.served.environment import use_writable_folders\n"
        "from s2l_nemo.trainer.start import preload\n"
        "use_writable_folders()\npreload()\n"
    )
    environment = {**os.environ, "HOME": "/dev/null/none", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_f25_transformer_engine_without_a_gpu_is_one_line() -> None:
    cfg = config(1)
    cfg.model.transformer_engine = True
    with pytest.raises(
        UserError, match=r"^model\.transformer_engine=true needs a GPU, and PyTorch sees no CUDA device"
    ):
        start.check_machine(cfg, on_gpu=False)
