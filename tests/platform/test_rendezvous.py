"""Ranks that come together, or wait for one that does not. Where signals matter they are processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from s2l_nemo.errors import UserError
from s2l_nemo.platform.launch import free_port
from s2l_nemo.platform.rendezvous import meet

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


def outcome(number: int, world: int, start_s: float) -> str:
    try:
        meet(number, world, start_s)
    except UserError as error:
        return str(error)
    return "all are here"


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> str:
    port = free_port()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    return f"MASTER_ADDR=127.0.0.1 MASTER_PORT={port}"


@pytest.mark.usefixtures("address")
def test_those_who_have_come_say_who_is_missing() -> None:
    with ThreadPoolExecutor() as ranks:
        second, first = ranks.submit(outcome, 2, 4, 600), ranks.submit(outcome, 0, 4, 5)
        line = (
            "2 of 4 ranks have not come: rank 1, 3 after trainer.start_s=5 seconds: see whether these processes were "
            "started and reach MASTER_ADDR, or raise trainer.start_s"
        )
        assert (first.result(), second.result()) == (line, line.replace("=5 ", "=600 "))


@pytest.mark.usefixtures("address")
def test_of_many_missing_ranks_the_first_are_named() -> None:
    assert "11 of 12 ranks have not come: rank 1, 2, 3, 4, 5, 6, 7, 8 and 3 more after" in outcome(0, 12, 0.1)


def test_a_missing_rank_0_is_named(address: str) -> None:
    assert outcome(1, 2, 0.1).startswith(f"rank 0 does not answer at {address} after trainer.start_s=0.1 seconds")


@pytest.mark.parametrize("number", [0, 1])
def test_f04_who_waits_answers_to_a_signal(number: int) -> None:
    process = rank(number, 2, free_port(), 600)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert ends(process) == [(143, "", "interrupted\n")]
