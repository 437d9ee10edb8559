"""Starts the ranks of a run. Under torchrun or Slurm they are there already; under plain `python` it makes them.

Without CUDA the parent imports the heavy packages once and forks the ranks, so that they start at once. With CUDA a
forked process cannot use the device, so torchrun runs the script again.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from s2l_nemo.errors import UserError
from s2l_nemo.platform.failures import CRASHED, Failure, attempt
from s2l_nemo.platform.launchers import OWN_LAUNCH, rank_environment

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it
GRACE_SECONDS = 10.0  # from the failure of one rank until the others are killed
# Slurm's --signal sends what it is told to, often SIGUSR1; a terminal that closes sends SIGHUP.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


def caught_signals() -> list[signal.Signals]:
    """The signals that stop a run. SIGHUP is none if `nohup` has said so."""
    return [one for one in STOP_SIGNALS if one != signal.SIGHUP or signal.getsignal(one) is not signal.SIG_IGN]


def leave_on_signals(message: str | None = "interrupted") -> None:
    """Lets Ctrl-C, SIGTERM and the like end this process at once, until the run listens itself. Nothing is to be saved.

    A KeyboardInterrupt would not do: some package always swallows it while it is being imported.
    """
    cursor = SHOW_CURSOR if sys.stdout.isatty() else ""
    text = b"" if message is None else f"{cursor}{message}\n".encode()

    def leave(signum: int, _frame: object) -> None:
        os.write(2, text)
        os._exit(128 + signum)

    for signum in caught_signals():
        signal.signal(signum, leave)


def launch(
    main: Callable[[], None],
    *,
    devices: int,
    num_nodes: int,
    on_gpu: bool,
    preload: Callable[[], Any],
    max_restarts: int = 0,
) -> int:
    """Runs `main` on every rank of this node. Returns the exit code: 0, that of `main`, or one of `failures`.

    `preload` imports what the ranks need. It runs once before a fork. With `max_restarts` a process remains that can
    start the ranks again: the caller of this function, or torchrun.

    Raises UserError for several nodes without a launcher. `launchers.check_launcher` says before whether one fits.
    """
    started = rank_environment(os.environ)
    if started is not None:
        os.environ.update(started)
        return run_here(main)
    if num_nodes > 1:
        raise UserError(
            f"trainer.num_nodes={num_nodes} needs a launcher: start one process per GPU with torchrun or srun"
        )
    if on_gpu and (devices > 1 or max_restarts):
        os.environ[OWN_LAUNCH] = "1"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}"]
        os.execv(sys.executable, [*command, f"--max-restarts={max_restarts}", *torchrun_signals(), *sys.argv])
    if devices == 1 and not max_restarts:
        os.environ.update(environment_of(0, 1, free_port()))
        return run_here(main)
    preload()
    return fork_ranks(main, devices)


def torchrun_signals() -> list[str]:
    """The argument that lets torchrun pass on all signals that stop a run. An older torch has none."""
    from torch.distributed.launcher.api import LaunchConfig

    known = any(field.name == "signals_to_handle" for field in fields(LaunchConfig))
    return [f"--signals-to-handle={','.join(one.name for one in STOP_SIGNALS)}"] if known else []


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
    """Runs `main` in this process and returns the exit code. A UserError becomes one line on stderr.

    If `main` has joined other ranks, it does not return: the process ends here, with that code. Threads of torch's
    groups may still hold Python objects, and the interpreter's regular end then aborts now and then: a run that has
    succeeded would have failed.
    """
    failure = attempt(main) or Failure(0)
    if failure.aftermath:
        print(f"rank {os.environ['RANK']} has lost another rank, whose own error is the one to read", file=sys.stderr)
    elif failure.text:
        print(failure.text, file=sys.stderr, flush=True)
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        _leave(failure.code)
    return failure.code


def _leave(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def end_rank(failure: Failure) -> NoReturn:
    """Ends this process at once, from any thread, with a failure that its parent shows, or that is printed."""
    with _telling:
        if _parent is None:
            print(failure.text, file=sys.stderr, flush=True)
        else:
            _parent.send(failure)
    os._exit(failure.code)


_telling = threading.Lock()  # the main thread and a watchdog may both fail
_parent: Connection | None = None  # of a forked rank


def fork_ranks(main: Callable[[], None], world: int) -> int:
    """Forks `world` ranks and waits for all. Returns an exit code. Of their errors only the first is shown.

    Signals are passed on to the ranks. They have process groups of their own, so that Ctrl-C of a terminal does not
    reach them twice. If this process dies, so do they. If a rank fails, the others are killed after a grace time,
    because a collective may wait for the dead rank forever.
    """
    context = multiprocessing.get_context("fork")
    port = free_port()
    threads = max(1, (os.cpu_count() or 1) // world)
    ranks: list[Any] = []
    ears: list[Connection] = []
    received: list[int] = []

    def pass_on(signum: int, _frame: object) -> None:
        received.append(signum)
        for rank in ranks:
            if rank.is_alive() and rank.pid:
                os.kill(rank.pid, signum)

    # A signal that comes while ranks start waits until this process and the ranks have their handlers.
    signals = caught_signals()
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    for rank in range(world):
        ear, mouth = context.Pipe(duplex=False)
        ranks.append(context.Process(target=_rank, args=(main, rank, world, port, threads, mouth)))
        ranks[-1].start()
        mouth.close()  # before the next fork, so that its only holder is this rank
        ears.append(ear)
    before = {signum: signal.signal(signum, pass_on) for signum in signals}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    try:
        failures, killed = _wait(ranks, ears)
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    codes = [None if rank in killed else ranks[rank].exitcode for rank in range(world)]
    first = first_failure(failures, codes, received)
    if first is None:
        return 0
    if first.text:
        print(first.text, file=sys.stderr, flush=True)
    return first.code


def first_failure(
    failures: Sequence[Failure], exit_codes: Sequence[int | None], received: Sequence[int]
) -> Failure | None:
    """The failure that explains the others; None if there is none.

    `failures` are those that ranks have told of, in their order, `exit_codes` those of all ranks, but None for one that
    was killed because of another, and `received` the signals that this process has passed on. A rank that a signal has
    killed tells nothing, and what others then tell is that they have lost it.
    """
    own = [failure for failure in failures if not failure.aftermath]
    if own:
        return own[0]
    if not failures and not any(exit_codes):
        return None
    if received:
        return Failure(128 + received[0], "interrupted")
    for rank, code in enumerate(exit_codes):
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            hint = "; the kernel does so if memory runs out, see dmesg" if -code == signal.SIGKILL else ""
            return Failure(CRASHED, f"rank {rank} was killed by {name}{hint}")
    if failures:
        return failures[0]
    return Failure(max(code or 0 for code in exit_codes))


def _wait(ranks: Sequence[Any], ears: Sequence[Connection]) -> tuple[list[Failure], set[int]]:
    """Waits for the end of all. Returns the failures in the order in which they came, and the ranks killed here."""
    deadline: float | None = None
    open_ears, failures, killed = list(ears), list[Failure](), set[int]()
    while any(rank.is_alive() for rank in ranks):
        failures += _hear(open_ears, [rank.sentinel for rank in ranks if rank.is_alive()])
        if deadline is None and any(rank.exitcode for rank in ranks):
            deadline = time.monotonic() + GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            slow = {index for index, rank in enumerate(ranks) if rank.is_alive()}
            killed |= slow
            for index in slow:
                ranks[index].kill()
    for rank in ranks:
        rank.join()
    while any(ear.poll() for ear in open_ears):  # their last words; a process that outlives its rank has none
        failures += _hear(open_ears, [])
    return failures, killed


def _hear(open_ears: list[Connection], sentinels: Sequence[int]) -> list[Failure]:
    """What ranks have told, after a second at most. Removes the ears of those that have ended."""
    heard = []
    for ready in multiprocessing.connection.wait([*sentinels, *open_ears], timeout=1.0):
        if isinstance(ready, Connection):
            try:
                heard.append(ready.recv())
            except (EOFError, OSError):  # it has ended, maybe in the midst of a word
                open_ears.remove(ready)
    return heard


def _rank(
    main: Callable[[], None],
    rank: int,
    world: int,
    port: int,
    threads: int,
    mouth: Connection,
) -> None:
    global _parent
    _parent = mouth
    os.setpgrp()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ.update(environment_of(rank, world, port), OMP_NUM_THREADS=str(threads))
    # At once, also in the midst of a collective: nothing is to be saved until the run listens itself.
    for signum in caught_signals():
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
    failure = attempt(main)
    if failure is None:
        _leave(0)  # a regular end takes seconds after a fork of NeMo, and nothing is left to do
    if failure.text:
        sys.stdout.flush()
        sys.stderr.flush()
        end_rank(failure)
    _leave(failure.code)
