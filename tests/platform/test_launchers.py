"""Variables of torchrun and Slurm, also those that an earlier job or shell has left over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from s2l_nemo.errors import UserError
from s2l_nemo.platform.launchers import OWN_LAUNCH, check_launcher, rank_environment

SLURM = {
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "16",
    "SLURM_JOB_NODELIST": "node[1-2]",
    "SLURM_JOB_ID": "123456",
}
TORCHRUN = {
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
}


def test_torchrun_is_left_as_it_is_and_slurm_is_translated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert rank_environment(TORCHRUN) == {}
    assert rank_environment({}) is None
    assert rank_environment({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}) is None
    assert rank_environment({"SLURM_PROCID": "0", "SLURM_NTASKS": ""}) is None
    assert rank_environment({"SLURM_NTASKS": "2"}) is None  # a job, and no task of it
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames node[1-2]" ] && printf "node1\\nnode2\\n"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert rank_environment(SLURM) == {
        "RANK": "9",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "16",
        "MASTER_ADDR": "node1",
        "MASTER_PORT": "23456",
    }
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"scontrol cannot say .*=node\[1-3\] .*: set MASTER_ADDR to it"):
        rank_environment(SLURM | {"SLURM_JOB_NODELIST": "node[1-3]"})
    scontrol.unlink()  # as in a container, whose launch script knows the first host
    given = rank_environment(SLURM | {"MASTER_ADDR": "node1", "MASTER_PORT": "20001"})
    assert given is not None
    assert (given["MASTER_ADDR"], given["MASTER_PORT"]) == ("node1", "20001")
    with pytest.raises(UserError, match="set MASTER_ADDR to it"):
        rank_environment(SLURM)


@pytest.mark.parametrize("missing", [name for name in SLURM if name not in ("SLURM_PROCID", "SLURM_NTASKS")])
def test_half_of_slurm_is_refused(missing: str) -> None:
    with pytest.raises(UserError, match=f"SLURM_NTASKS=16 without {missing}: start the run with srun"):
        rank_environment({name: value for name, value in SLURM.items() if name != missing})


@pytest.mark.parametrize(("given", "missing"), [("RANK", "WORLD_SIZE"), ("WORLD_SIZE", "RANK")])
def test_f05_half_of_torchrun_is_refused(given: str, missing: str) -> None:
    with pytest.raises(UserError, match=f"{given}=0 is set and {missing} is not.*unset RANK"):
        rank_environment({given: "0"})


def test_what_fits() -> None:
    check_launcher(TORCHRUN, devices=4, num_nodes=1, max_restarts=0)
    check_launcher(TORCHRUN, devices=2, num_nodes=2, max_restarts=0)
    check_launcher(TORCHRUN | {OWN_LAUNCH: "1"}, devices=2, num_nodes=2, max_restarts=3)


@pytest.mark.parametrize(
    ("changed", "devices", "message"),
    [
        ({}, 1, r"WORLD_SIZE=4, but trainer\.devices=1 x trainer\.num_nodes=1 is 1 ranks"),
        ({}, 8, r"WORLD_SIZE=4, but trainer\.devices=8"),
        ({"SLURM_NTASKS": "4"}, 8, r"^SLURM_NTASKS=4, but trainer\.devices=8"),
        ({"SLURM_NTASKS": "2"}, 8, r"^WORLD_SIZE=4"),
        ({"RANK": "4"}, 4, r"RANK=4 and LOCAL_RANK=1 do not fit WORLD_SIZE=4"),
        ({"LOCAL_RANK": "4"}, 4, r"LOCAL_RANK=4 do not fit"),
        ({"RANK": "-1"}, 4, r"RANK=-1 is not a number"),
        ({"WORLD_SIZE": "four"}, 4, r"WORLD_SIZE=four is not a number"),
        ({"LOCAL_RANK": ""}, 4, r"LOCAL_RANK= is not a number"),
        ({"MASTER_PORT": ""}, 4, r"MASTER_PORT= is not a number"),
        ({"MASTER_ADDR": ""}, 4, r"MASTER_ADDR is not"),
    ],
)
def test_f05_what_does_not_fit_is_one_line_at_once(changed: dict[str, str], devices: int, message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        check_launcher(TORCHRUN | changed, devices, num_nodes=1, max_restarts=0)
    assert "unset RANK" in str(refusal.value)


def test_restarts_are_the_launchers() -> None:
    with pytest.raises(UserError, match=r"run\.max_restarts=2, but a launcher .*--max-restarts=2.*run\.max_restarts=0"):
        check_launcher(TORCHRUN, devices=4, num_nodes=1, max_restarts=2)
