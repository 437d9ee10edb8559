"""Real rank processes without NeMo: errors, signals, environments, orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from s2l_nemo.errors import UserError
from s2l_nemo.platform.launch import launch, rank_environment

ROOT = Path(__file__).resolve().parents[2]


def start(body: str, world: int = 2) -> subprocess.Popen[str]:
    """A process that forks `world` ranks running `body`, with `rank` set."""
    code = (
        "import os, signal, sys, time\nfrom s2l_nemo.platform import launch\nfrom s2l_nemo.errors import UserError\n"
        "launch.GRACE_SECONDS = 1.0\n"
        "def say(*words): os.write(1, (' '.join(map(str, words)) + '\\n').encode())\n"
        "def main():\n    rank = int(os.environ['RANK'])\n"
        + textwrap.indent(textwrap.dedent(body), "    ")
        + f"\nsys.exit(launch.fork_ranks(main, {world}))\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(body: str, world: int = 2) -> tuple[int, str, str]:
    process = start(body, world)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def test_ranks_get_their_environment() -> None:
    code, out, err = run("say(rank, os.environ['LOCAL_RANK'], os.environ['WORLD_SIZE'])", 3)
    assert (code, err) == (0, "")
    assert sorted(out.splitlines()) == ["0 0 3", "1 1 3", "2 2 3"]


def test_a_user_error_is_one_line_even_if_every_rank_raises_it() -> None:
    code, _, err = run("raise UserError('model.path=x is missing; set it')")
    assert code == 2
    assert err.splitlines() == ["error: model.path=x is missing; set it"]


def test_a_failure_of_one_rank_ends_the_others_and_is_the_one_shown() -> None:
    code, _, err = run("if rank == 1: raise KeyError('lost')\ntime.sleep(50)")
    assert code == 1
    assert err.startswith("rank 1 failed:\nTraceback")
    assert "KeyError: 'lost'" in err


def test_a_killed_rank_ends_the_run() -> None:
    code, _, err = run("if rank == 0: os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(50)")
    assert code == 1
    assert "rank 0 died with exit code -9" in err


def test_no_space_is_a_users_error() -> None:
    code, _, err = run("import errno\nraise OSError(errno.ENOSPC, 'No space left on device', '/runs/x')")
    assert code == 2
    assert err.splitlines() == [
        "error: no space left on the disk for /runs/x; free some and run the same command to continue"
    ]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_parent_reaches_every_rank_once(signum: signal.Signals) -> None:
    process = start(
        f"""
        got = []
        signal.signal({int(signum)}, lambda *a: got.append(1))
        say('ready')
        while not got: time.sleep(0.02)
        time.sleep(0.3)
        say(len(got))
        """
    )
    assert process.stdout is not None
    assert [process.stdout.readline(), process.stdout.readline()] == ["ready\n", "ready\n"]
    process.send_signal(signum)
    out, _ = process.communicate(timeout=600)
    assert (process.returncode, out.split()) == (0, ["1", "1"])


def test_a_signal_before_the_ranks_listen_ends_them_all() -> None:
    process = start("say('ready')\ntime.sleep(50)")
    assert process.stdout is not None
    assert [process.stdout.readline(), process.stdout.readline()] == ["ready\n", "ready\n"]
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=600)
    assert (process.returncode, err) == (143, "interrupted\n")


def test_ranks_die_with_their_parent() -> None:
    process = start("say(os.getpid())\ntime.sleep(50)")
    assert process.stdout is not None
    pids = [int(process.stdout.readline()) for _ in range(2)]
    process.kill()
    process.wait()
    deadline = time.monotonic() + 300
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


def test_torchrun_is_left_as_it_is_and_slurm_is_translated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert rank_environment({"RANK": "3", "WORLD_SIZE": "8"}) == {}
    assert rank_environment({}) is None
    assert rank_environment({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}) is None
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames node[1-2]" ] && printf "node1\\nnode2\\n"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    slurm = {
        "SLURM_PROCID": "9",
        "SLURM_LOCALID": "1",
        "SLURM_NTASKS": "16",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_ID": "123456",
    }
    assert rank_environment(slurm) == {
        "RANK": "9",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "16",
        "MASTER_ADDR": "node1",
        "MASTER_PORT": "23456",
    }
    scontrol.unlink()  # as in a container, whose launch script knows the first host
    monkeypatch.setenv("PATH", str(tmp_path))
    given = rank_environment(slurm | {"MASTER_ADDR": "node1", "MASTER_PORT": "20001"})
    assert given is not None
    assert (given["MASTER_ADDR"], given["MASTER_PORT"]) == ("node1", "20001")


def test_several_nodes_without_a_launcher_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"trainer.num_nodes=2 needs a launcher"):
        launch(lambda: None, devices=8, num_nodes=2, on_gpu=True, preload=lambda: None)
