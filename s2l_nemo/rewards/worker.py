"""A process that judges hostile answers: `python -m s2l_nemo.rewards.worker`, started and watched by `pool`.

Messages are JSON behind four bytes of length, on stdin and stdout. Nothing is ever unpickled. The first message is the
setup.

This process is the supervisor and has one thread. It imports what checks need, and forks a child that reads checks one
by one. If the child dies at a check, the supervisor answers for it and forks another, in milliseconds, without a new
import. The supervisor ends with its parent, and the child ends with the supervisor.

Three limits hold for a check. A kernel timer limits its CPU time: its signal ends the child even inside C code.
RLIMIT_AS limits its memory. The parent limits its wall time.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any

from s2l_nemo.errors import UserError

RECYCLED = 10  # exit status of a child that asks for a fresh one, because it has run long or is out of memory
CHECKS_PER_CHILD = 2000  # then its sympy caches are large; a fresh child has none
_LENGTH_BYTES = 4
_PR_SET_PDEATHSIG = 1
_POLL_S = 0.5  # how soon the supervisor notices that the parent is gone

Check = Callable[..., Any]


def send(fd: int, message: Any) -> None:
    """Writes one message. Raises BrokenPipeError if the other side is gone."""
    data = json.dumps(message).encode()
    data = len(data).to_bytes(_LENGTH_BYTES, "big") + data
    while data:
        data = data[os.write(fd, data) :]


def receive(fd: int) -> Any:
    """Reads one message. Raises EOFError if the other side is gone."""
    return json.loads(_read(fd, int.from_bytes(_read(fd, _LENGTH_BYTES), "big")))


def _read(fd: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.read(fd, min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def main() -> None:
    requests, replies = _take_over_pipes()
    setup = receive(requests)
    parent = os.getppid()
    try:
        check, source = _load_check(setup)
    except UserError as error:  # the parent raises it
        send(replies, {"refused": str(error)})
        return
    except Exception as error:  # the same
        send(replies, {"fatal": f"{type(error).__name__}: {error}"})
        return
    signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGCHLD, signal.SIGTERM})  # `_wait` takes them
    send(replies, {"ready": True, "source": source})
    while True:
        child = os.fork()
        if child == 0:
            _serve(check, setup, requests, replies)
        status = _wait(child, parent)
        if status is None or os.waitstatus_to_exitcode(status) == 0:
            return
        code = os.waitstatus_to_exitcode(status)
        if code != RECYCLED:
            send(replies, {"error": _reason(code, setup)})


def _take_over_pipes() -> tuple[int, int]:
    """Moves requests and replies to other descriptors, so that prints of a reward function cannot mix with them."""
    requests, replies = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    return requests, replies


def _load_check(setup: dict[str, Any]) -> tuple[Check, str | None]:
    """The function that a check calls, and the fingerprint of the user's."""
    if setup["fn"] is not None:
        from s2l_nemo.rewards.custom import load_function, source_of

        return load_function(setup["fn"], setup["arguments"]), source_of(setup["fn"])
    import logging

    from s2l_nemo.rewards.equivalence import equivalent
    from s2l_nemo.rewards.warmup import warm_up

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its own time-outs are off
    warm_up()
    return partial(equivalent, tolerance=setup["tolerance"]), None


def _wait(child: int, parent: int) -> int | None:
    """The wait status of the child. None if the parent is gone or asks for the end; the child has then been ended."""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        caught = signal.sigtimedwait({signal.SIGCHLD, signal.SIGTERM}, _POLL_S)
        if os.getppid() != parent or (caught is not None and caught.si_signo == signal.SIGTERM):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None


def _reason(code: int, setup: dict[str, Any]) -> str:
    if code == -signal.SIGPROF:
        return f"killed after {setup['cpu_s']:g} s of CPU time"
    if code == -signal.SIGKILL:
        return "killed by the system, which may be out of memory"
    if code < 0:
        return f"the checking process died of {signal.Signals(-code).name}"
    return f"the checking process ended with status {code}"


def _serve(check: Check, setup: dict[str, Any], requests: int, replies: int) -> None:
    """What the child runs: it answers checks until the requests end. Never returns."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    allowed = setup["memory_mb"] << 20
    base = _status("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (base + allowed, base + allowed))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        for _ in range(CHECKS_PER_CHILD):
            arguments = receive(requests)
            signal.setitimer(signal.ITIMER_PROF, setup["cpu_s"])
            reply = _run(check, arguments, setup["memory_mb"])
            signal.setitimer(signal.ITIMER_PROF, 0)
            # sympy and math-verify swallow MemoryError. So a False proves nothing if the check came near the limit.
            if reply.get("value") is False and _status("VmPeak") > base + allowed // 2:
                reply = {"error": _out_of_memory(setup["memory_mb"])}
            send(replies, reply)
            if "memory" in reply.get("error", ""):
                break
        os._exit(RECYCLED)
    except (EOFError, BrokenPipeError):
        os._exit(0)


def _run(check: Check, arguments: list[str], memory_mb: int) -> dict[str, Any]:
    try:
        value = _plain(check(*arguments))
    except MemoryError:
        return {"error": _out_of_memory(memory_mb)}
    except RecursionError:
        return {"error": "nested too deeply to check"}
    except BaseException as error:  # whatever it is, it belongs to this check and is counted
        text = str(error).splitlines()
        # our own errors already say the reason
        name = "" if type(error).__name__ == "UncomparableError" else f"{type(error).__name__}: "
        return {"error": f"{name}{text[0][:200] if text else ''}"}
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return {"error": not_a_number(value)}
    return {"value": value}


def _plain(value: Any) -> Any:
    """A number of numpy or torch (also an array without axes), a fraction or a decimal as Python's own; others stay."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    return float(value) if isinstance(value, Fraction | Decimal) else value


def not_a_number(value: object) -> str:
    """Why the value of a check is no reward."""
    return f"it returned {' '.join(repr(value).split())[:80]}, must return a finite number"


def _out_of_memory(memory_mb: int) -> str:
    return f"out of memory: the check needs more than {memory_mb} MiB"


def _status(field: str) -> int:
    """A memory field of this process, in bytes."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(field + ":"))
    return int(line.split()[1]) << 10


if __name__ == "__main__":
    sys.setrecursionlimit(3000)
    main()
