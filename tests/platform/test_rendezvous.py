"""Real processes that come together, or wait for one that does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from s2l_nemo.platform.launch import free_port

ROOT = Path(__file__).resolve().parents[2]
MEET = """
import sys
from s2l_nemo.platform.failures import attempt
from s2l_nemo.platform.launch import leave_on_signals, run_here
from s2l_nemo.platform import rendezvous
import torch
leave_on_signals()
print("ready", flush=True)
def main():
    store = rendezvous.join(60.0, float(sys.argv[1]))
    total = torch.ones(1)
    torch.distributed.all_reduce(total)
    print(int(total.item()), flush=True)
    torch.distributed.barrier()
sys.exit(run_here(main))
"""


def rank(number: int, world: int, port: int, start_s: float) -> subprocess.Popen[str]:
    own = {
        "RANK": str(number),
        "LOCAL_RANK": "0",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
    }
    return subprocess.Popen(
        [sys.executable, "-c", MEET, str(start_s)],
        cwd=ROOT,
        env=os.environ | own | {"MASTER_PORT": str(port), "TORCH_CPP_LOG_LEVEL": "ERROR"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ends(*processes: subprocess.Popen[str]) -> list[tuple[int, str, str]]:
    return [(process.returncode, out, err) for process in processes for out, err in [process.communicate(timeout=600)]]


def test_all_ranks_come_whoever_is_first() -> None:
    port = free_port()
    second = rank(1, 2, port, 600)
    assert second.stdout is not None
    second.stdout.readline()
    assert ends(rank(0, 2, port, 600), second) == [(0, "ready\n2\n", ""), (0, "2\n", "")]


def test_those_who_have_come_say_who_is_missing() -> None:
    port = free_port()
    line = (
        "error: 2 of 4 ranks have not come: rank 1, 3 after trainer.start_s=20 seconds: see whether these processes "
        "were started and reach MASTER_ADDR, or raise trainer.start_s\n"
    )
    assert ends(rank(0, 4, port, 20), rank(2, 4, port, 600)) == [
        (2, "ready\n", line), (2, "ready\n", line.replace("=20 ", "=600 ")),
    ]  # fmt: skip


def test_a_missing_rank_0_is_named() -> None:
    port = free_port()
    ((code, _, err),) = ends(rank(1, 2, port, 0.5))
    assert code == 2
    assert err.startswith(f"error: rank 0 does not answer at MASTER_ADDR=127.0.0.1 MASTER_PORT={port} after ")


@pytest.mark.parametrize("number", [0, 1])
def test_who_waits_answers_to_a_signal(number: int) -> None:
    process = rank(number, 2, free_port(), 600)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert ends(process) == [(143, "", "interrupted\n")]
