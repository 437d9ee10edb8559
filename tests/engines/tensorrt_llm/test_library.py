"""What surrounds the library: its version, and the Ray that an engine starts and ends."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.engines.tensorrt_llm.library import LocalRay, import_tensorrt_llm
from s2l_nemo.engines.tensorrt_llm.versions import VERSIONS, version_of
from s2l_nemo.errors import UserError

PRESTART = ("RAY_num_prestart_python_workers", "RAY_prestart_worker_first_driver")


def test_a_small_ray_of_our_own(fresh_ray: Any) -> None:
    import_tensorrt_llm()
    ray = LocalRay(gpus=2)
    started = fresh_ray.started
    assert (started["address"], started["num_cpus"], started["include_dashboard"]) == ("local", 3, False)
    assert started["object_store_memory"] == 256 * 2**20
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert {name: os.environ[name] for name in PRESTART} == dict.fromkeys(PRESTART, "0")
    folder = Path(started["_temp_dir"])
    assert list(folder.iterdir())
    ray.close()
    assert not fresh_ray.is_initialized()
    assert not folder.exists()
    ray.close()


def test_the_library_uses_the_ray_that_runs(fresh_ray: Any, double: Any, folder: Path) -> None:
    ray = LocalRay(gpus=1)
    llm = double.LLM(str(folder), skip_tokenizer_init=True, dtype="float32", orchestrator_type="ray")
    assert fresh_ray.started["num_cpus"] == 2
    llm.shutdown()  # ends Ray, and leaves its folder
    assert not fresh_ray.is_initialized()
    ray.close()


@pytest.mark.usefixtures("fresh_ray")
def test_a_ray_without_a_cpu_for_each_worker_would_wait(double: Any, folder: Path) -> None:
    LocalRay(gpus=1)
    with pytest.raises(double.Misuse, match="fewer CPUs than the 4"):
        double.LLM(
            str(folder), skip_tokenizer_init=True, dtype="float32", orchestrator_type="ray", tensor_parallel_size=4
        )


@pytest.mark.usefixtures("fresh_ray")
def test_a_temporary_folder_whose_name_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/scratch/of/a/job/with/a/long/name")
    with pytest.raises(UserError, match=r"TMPDIR=/scratch/.* is too long for Ray's sockets: .* at most 21 characters"):
        LocalRay(gpus=1)


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"has no module ray; set engine\.python"):
        LocalRay(gpus=1)


@pytest.mark.parametrize("text", ["1.2.0", "1.2.1", "1.2.2rc1"])
def test_versions_with_a_row(text: str) -> None:
    assert version_of(text) is VERSIONS["1.2"]


@pytest.mark.parametrize("text", ["1.1.0", "1.3.0rc7", "1.20.0", "1"])
def test_versions_without_a_row(text: str) -> None:
    with pytest.raises(UserError, match=rf"found tensorrt_llm {text}; set engine\.python .* tensorrt_llm 1\.2\.x$"):
        version_of(text)
