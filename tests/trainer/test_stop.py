"""Row 7 of docs/reliability.md: the first signal is remembered, a second urgent one ends the process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from s2l_nemo.platform.launch import STOP_SIGNALS
from s2l_nemo.trainer.stop import URGENT, StopRequest

WARNINGS = [one for one in STOP_SIGNALS if one not in URGENT]


@pytest.fixture(autouse=True)
def without_nohup() -> Iterator[None]:
    """`nohup pytest` would have SIGHUP ignored, and a run respects that."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("signum", STOP_SIGNALS)
def test_r07_the_first_signal_is_remembered(stop: StopRequest, signum: signal.Signals) -> None:
    assert stop.agreed() == 0
    os.kill(os.getpid(), signum)
    assert stop.agreed() == signum
    assert stop.agreed() == signum


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_the_process(second: signal.Signals) -> None:
    assert exit_code_after(signal.SIGTERM, second) == 128 + second
    assert exit_code_after(signal.SIGUSR1, signal.SIGINT, second) == 128 + second


@pytest.mark.parametrize("warning", WARNINGS)
def test_f15_what_comes_after_a_warning_lets_the_run_save(warning: signal.Signals) -> None:
    """Slurm sends the signal that it was told, SIGTERM at the end of the time, and SIGKILL half a minute later."""
    assert exit_code_after(warning, warning, signal.SIGTERM, warning) == 0


def exit_code_after(*signals: signal.Signals) -> int:
    """Of a process that gets these signals and ends with 0 if none of them ends it."""
    process = os.fork()
    if process == 0:
        stop = StopRequest()
        for signum in signals:
            os.kill(os.getpid(), signum)
        os._exit(0 if stop.signal == signals[0] else 99)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
