"""Starts the ranks of a run. Under torchrun or Slurm they are there already; under plain `python` it makes them.

Without CUDA the parent imports the heavy packages once and forks the ranks, so that they start at once. With CUDA a
forked process cannot use the device, so torchrun runs the script again.
"""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from s2l_nemo.errors import UserError

USER_ERROR = 2  # exit code of a run that a mistake of the user has ended
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it
GRACE_SECONDS = 10.0  # from the failure of one rank until the others are killed


STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def leave_on_signals(message: str | None = "interrupted") -> None:
    """Lets Ctrl-C and SIGTERM end this process at once, until the run listens itself. There is nothing to save yet.

    A KeyboardInterrupt would not do: some package always swallows it while it is being imported.
    """
    cursor = SHOW_CURSOR if sys.stdout.isatty() else ""
    text = b"" if message is None else f"{cursor}{message}\n".encode()

    def leave(signum: int, _frame: object) -> None:
        os.write(2, text)
        os._exit(128 + signum)

    for signum in STOP_SIGNALS:
        signal.signal(signum, leave)


def rank_environment(environ: Mapping[str, str]) -> dict[str, str] | None:
    """The variables to add if a launcher has started this process; None if none has.

    They are RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. torchrun sets them itself, so nothing is added.
    `srun` with several tasks sets SLURM_PROCID and others, from which they are made.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        return {}
    if int(environ.get("SLURM_NTASKS", "1")) < 2 or "SLURM_PROCID" not in environ:
        return None
    return {
        "RANK": environ["SLURM_PROCID"],
        "LOCAL_RANK": environ["SLURM_LOCALID"],
        "WORLD_SIZE": environ["SLURM_NTASKS"],
        "MASTER_ADDR": environ.get("MASTER_ADDR") or _first_host(environ["SLURM_JOB_NODELIST"]),
        # outside the ephemeral range, and the same on all nodes of a job
        "MASTER_PORT": environ.get("MASTER_PORT", str(20000 + int(environ["SLURM_JOB_ID"]) % 10000)),
    }


def _first_host(nodes: str) -> str:
    """The first node of the list. It needs scontrol; in a container without it, the launch script gives MASTER_ADDR."""
    hosts = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    return hosts.stdout.split()[0]


def launch(main: Callable[[], None], *, devices: int, num_nodes: int, on_gpu: bool, preload: Callable[[], Any]) -> int:
    """Runs `main` on every rank of this node and returns the exit code: 0, 2 for a UserError, 1 for anything else.

    `preload` imports what the ranks need. It runs once before a fork.
    """
    started = rank_environment(os.environ)
    if started is not None:
        os.environ.update(started)
        return run_here(main)
    if num_nodes > 1:
        raise UserError(
            f"trainer.num_nodes={num_nodes} needs a launcher: start one process per GPU with torchrun or srun"
        )
    if on_gpu and devices > 1:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}"]
        os.execv(sys.executable, [*command, *sys.argv])
    if devices == 1:
        os.environ.update(environment_of(0, 1, free_port()))
        return run_here(main)
    preload()
    return fork_ranks(main, devices)


def environment_of(rank: int, world: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_here(main: Callable[[], None]) -> int:
    """Runs `main` in this process and returns the exit code. A UserError becomes one line on stderr."""
    code, text = _attempt(main)
    if text:
        print(text, file=sys.stderr, flush=True)
    return code


def fork_ranks(main: Callable[[], None], world: int) -> int:
    """Forks `world` ranks and waits for all. Of their errors only the first is shown.

    SIGINT and SIGTERM are passed on to the ranks. They have process groups of their own, so that Ctrl-C of a terminal
    does not reach them twice. If this process dies, so do they. If a rank fails, the others are killed after a grace
    time, because a collective may wait for the dead rank forever.
    """
    context = multiprocessing.get_context("fork")
    errors: Any = context.SimpleQueue()
    port = free_port()
    threads = max(1, (os.cpu_count() or 1) // world)
    ranks = [context.Process(target=_rank, args=(main, rank, world, port, threads, errors)) for rank in range(world)]
    received: list[int] = []

    def pass_on(signum: int, _frame: object) -> None:
        received.append(signum)
        for rank in ranks:
            if rank.is_alive() and rank.pid:
                os.kill(rank.pid, signum)

    # A signal that comes while ranks start waits until this process and the ranks have their handlers.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    for rank in ranks:
        rank.start()
    before = {signum: signal.signal(signum, pass_on) for signum in STOP_SIGNALS}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    try:
        _wait(ranks)
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    codes = [rank.exitcode or 0 for rank in ranks]
    if not any(codes):
        return 0
    if errors.empty() and received:
        print("interrupted", file=sys.stderr)
        return 128 + received[0]
    if errors.empty():
        dead = next(index for index, code in enumerate(codes) if code)
        print(f"rank {dead} died with exit code {codes[dead]} and no message", file=sys.stderr)
        return 1
    code, text = errors.get()
    print(text, file=sys.stderr, flush=True)
    return int(code)


def _wait(ranks: list[Any]) -> None:
    deadline: float | None = None
    while any(rank.is_alive() for rank in ranks):
        alive = [rank.sentinel for rank in ranks if rank.is_alive()]
        multiprocessing.connection.wait(alive, timeout=1.0)
        if deadline is None and any(rank.exitcode for rank in ranks):
            deadline = time.monotonic() + GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            for rank in ranks:
                rank.kill()
    for rank in ranks:
        rank.join()


def _rank(main: Callable[[], None], rank: int, world: int, port: int, threads: int, errors: Any) -> None:
    os.setpgrp()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ.update(environment_of(rank, world, port), OMP_NUM_THREADS=str(threads))
    leave_on_signals(message=None)  # the parent prints it once
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
    code, text = _attempt(main)
    if text:
        errors.put((code, text))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a regular end takes seconds after a fork of NeMo, and nothing is left to do


def _attempt(main: Callable[[], None]) -> tuple[int, str]:
    """Runs `main`. Returns the exit code and what to print."""
    try:
        main()
    except UserError as error:
        return USER_ERROR, f"error: {error}"
    except OSError as error:
        if error.errno == errno.ENOSPC:
            where = f" for {error.filename}" if error.filename else ""
            return (
                USER_ERROR,
                f"error: no space left on the disk{where}; free some and run the same command to continue",
            )
        return 1, _failed()
    except SystemExit as stop:
        return (stop.code if isinstance(stop.code, int) else 1), ""
    except BaseException:
        return 1, _failed()
    return 0, ""


def _failed() -> str:
    return f"rank {os.environ.get('RANK', '0')} failed:\n{traceback.format_exc()}"
