"""What torchrun and Slurm tell a process about the run that it belongs to, and whether that can be true."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

from s2l_nemo.errors import UserError

OWN_LAUNCH = "S2L_OWN_LAUNCH"  # set if this project has started torchrun
SLURM = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", "SLURM_JOB_NODELIST", "SLURM_JOB_ID")
UNSET = "unset RANK, WORLD_SIZE and LOCAL_RANK if they are left over"


def rank_environment(environ: Mapping[str, str]) -> dict[str, str] | None:
    """The variables to add if a launcher has started this process; None if none has.

    They are RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. torchrun sets them itself, so nothing is added.
    `srun` with several tasks sets SLURM_PROCID and others, from which they are made.

    Raises UserError if only some of the variables are there.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        return {}
    for name, other in (("RANK", "WORLD_SIZE"), ("WORLD_SIZE", "RANK")):
        if name in environ:
            raise UserError(f"{name}={environ[name]} is set and {other} is not: a launcher sets both; {UNSET}")
    if "SLURM_PROCID" not in environ or environ.get("SLURM_NTASKS", "1") in ("", "1"):
        return None
    for name in SLURM:
        if name not in environ:
            raise UserError(f"SLURM_NTASKS={environ['SLURM_NTASKS']} without {name}: start the run with srun")
    return {
        "RANK": environ["SLURM_PROCID"],
        "LOCAL_RANK": environ["SLURM_LOCALID"],
        "WORLD_SIZE": environ["SLURM_NTASKS"],
        "MASTER_ADDR": environ.get("MASTER_ADDR") or _first_host(environ["SLURM_JOB_NODELIST"]),
        # outside the ephemeral range, and the same on all nodes of a job
        "MASTER_PORT": environ.get("MASTER_PORT") or str(20000 + _number(environ, "SLURM_JOB_ID") % 10000),
    }


def check_launcher(environ: Mapping[str, str], devices: int, num_nodes: int, max_restarts: int) -> None:
    """Compares what a launcher says with the configuration, before anything waits for ranks that never come.

    Raises UserError for a number of ranks that is not that of the run, for what is no number or missing, and for
    restarts that only the launcher could make.
    """
    rank, world, local = (_number(environ, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    ranks = devices * num_nodes
    if world != ranks:
        names = "SLURM_NTASKS" if environ.get("SLURM_NTASKS") == environ["WORLD_SIZE"] else "WORLD_SIZE"
        raise UserError(
            f"{names}={world}, but trainer.devices={devices} x trainer.num_nodes={num_nodes} is {ranks} ranks: start "
            f"as many processes (srun, torchrun), or {UNSET}"
        )
    if rank >= world or local >= devices:
        raise UserError(
            f"RANK={rank} and LOCAL_RANK={local} do not fit WORLD_SIZE={world} and trainer.devices={devices}: they "
            f"count from 0; {UNSET}"
        )
    if not environ.get("MASTER_ADDR"):
        raise UserError(f"RANK={rank} and WORLD_SIZE={world} are set and MASTER_ADDR is not: {UNSET}")
    _number(environ, "MASTER_PORT")
    if max_restarts and OWN_LAUNCH not in environ:
        raise UserError(
            f"run.max_restarts={max_restarts}, but a launcher has started this process: let it start the ranks again "
            f"(torchrun --max-restarts={max_restarts}), and set run.max_restarts=0"
        )


def _number(environ: Mapping[str, str], name: str) -> int:
    value = environ.get(name, "")
    if not value.isdecimal():
        raise UserError(f"{name}={value} is not a number: give what the launcher should have set, or {UNSET}")
    return int(value)


def _first_host(nodes: str) -> str:
    """The first node of the list. It needs scontrol; in a container without it, the launch script gives MASTER_ADDR."""
    try:
        hosts = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"scontrol cannot say which is the first of SLURM_JOB_NODELIST={nodes} ({error}): set MASTER_ADDR to it"
        ) from error
    return hosts.stdout.split()[0]
