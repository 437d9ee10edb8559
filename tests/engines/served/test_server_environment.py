"""What a server sees of the trainer's environment, and what its user may be missing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from s2l_nemo.engines.served.environment import ROOT, server_environment, writable_folders
from s2l_nemo.errors import UserError

PYTHON = "/opt/engines/bin/python"
NGC = (
    "/usr/local/lib/python3.12/dist-packages/torch/lib:/usr/local/lib/python3.12/dist-packages/torch_tensorrt/lib:"
    "/usr/local/cuda/compat/lib:/usr/local/nvidia/lib64"
)
NO_USER = 2**31 - 7  # no account has this number


def test_the_launchers_variables_stay_with_the_trainer() -> None:
    kept = {"HOME": "/root", "HF_HOME": "/hf", "RANKS": "x", "CUDA_VISIBLE_DEVICES": "0,1"}
    dropped = {
        "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "MASTER_ADDR", "MASTER_PORT",
        "PMI_FD", "PMIX_NAMESPACE", "OMPI_COMM_WORLD_SIZE", "SLURM_JOB_ID", "SLURM_NTASKS", "TORCHELASTIC_RUN_ID",
    }  # fmt: skip
    given = kept | {"PATH": "/bin"} | dict.fromkeys(dropped, "1")
    expected = kept | {"PATH": "/opt/engines/bin:/bin", "PYTHONPATH": str(ROOT)}
    assert server_environment(given, PYTHON, None) == expected
    ours = server_environment(given | {"PYTHONPATH": "/more"}, PYTHON, "2,3")
    assert ours["PYTHONPATH"] == f"{ROOT}:/more"
    assert ours["CUDA_VISIBLE_DEVICES"] == "2,3"


@pytest.mark.parametrize(
    ("python", "path", "expected"),
    [
        (PYTHON, "/opt/trainer/bin:/bin", "/opt/engines/bin:/opt/trainer/bin:/bin"),
        (PYTHON, None, "/opt/engines/bin"),
        ("python3", "/bin", "/bin"),  # found there, with its neighbours
    ],
)
def test_programs_of_the_servers_interpreter_come_first(python: str, path: str | None, expected: str) -> None:
    given = {} if path is None else {"PATH": path}
    assert server_environment(given, python, None)["PATH"] == expected


@pytest.mark.parametrize(
    ("python", "given", "expected"),
    [
        (PYTHON, {"LD_LIBRARY_PATH": NGC}, "/usr/local/cuda/compat/lib:/usr/local/nvidia/lib64"),
        (PYTHON, {"LD_LIBRARY_PATH": "/venv/lib/python3.11/site-packages/torch/lib"}, ""),
        (sys.executable, {"LD_LIBRARY_PATH": NGC}, NGC),
        (PYTHON, {}, None),
        (PYTHON, {"LD_LIBRARY_PATH": NGC, "S2L_ENGINE_LD_LIBRARY_PATH": "/mine"}, "/mine"),
        (sys.executable, {"S2L_ENGINE_LD_LIBRARY_PATH": ""}, ""),
    ],
)
def test_libraries_of_the_trainers_packages_are_not_the_servers(
    python: str, given: dict[str, str], expected: str | None
) -> None:
    assert server_environment(given, python, None).get("LD_LIBRARY_PATH") == expected


def test_a_user_with_a_home_needs_nothing(tmp_path: Path) -> None:
    assert writable_folders({"HOME": str(tmp_path)}, NO_USER, tmp_path / "nowhere") == {}


@pytest.mark.parametrize("home", [{}, {"HOME": ""}, {"HOME": "/nowhere"}])
def test_a_user_without_a_home_gets_folders(tmp_path: Path, home: dict[str, str]) -> None:
    folder = tmp_path / f"s2l_nemo_{os.getuid()}"
    for _ in range(2):  # the next server finds it
        assert writable_folders(home | {"USER": "me"}, os.getuid(), tmp_path) == {
            "HOME": f"{folder}",
            "XDG_CACHE_HOME": f"{folder}/.cache",
            "TRITON_CACHE_DIR": f"{folder}/.cache/triton",
            "FLASHINFER_WORKSPACE_BASE": f"{folder}/.cache",
            "TORCHINDUCTOR_CACHE_DIR": f"{folder}/.cache/torchinductor",
        }
    assert folder.stat().st_mode & 0o777 == 0o700


def test_what_the_user_has_set_stays(tmp_path: Path) -> None:
    given = {"HOME": "/nowhere", "LOGNAME": "me", "XDG_CACHE_HOME": "/cache", "TRITON_CACHE_DIR": "/triton"}
    assert writable_folders(given, os.getuid(), tmp_path) == {
        "HOME": f"{tmp_path}/s2l_nemo_{os.getuid()}",
        "FLASHINFER_WORKSPACE_BASE": "/cache",
        "TORCHINDUCTOR_CACHE_DIR": "/cache/torchinductor",
    }


def test_a_user_without_a_name_gets_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    assert writable_folders({}, os.getuid(), tmp_path)["USER"] == f"user{os.getuid()}"
    assert "USER" not in writable_folders({"LOGNAME": "me"}, os.getuid(), tmp_path)


def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / f"s2l_nemo_{NO_USER}"
    folder.mkdir()
    with pytest.raises(UserError) as caught:
        writable_folders({}, NO_USER, tmp_path)
    assert str(caught.value) == (
        f"{folder} belongs to another user, and HOME cannot be written: set HOME to a folder of your own"
    )
