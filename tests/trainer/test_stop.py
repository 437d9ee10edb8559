"""Signals: the first one is remembered, the second one ends the process."""

from __future__ import annotations

import os
import signal

import pytest

from s2l_nemo.trainer.stop import StopRequest


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_remembered(stop: StopRequest, signum: signal.Signals) -> None:
    assert stop.agreed() == 0
    os.kill(os.getpid(), signum)
    assert stop.agreed() == signum
    assert stop.agreed() == signum


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_the_process(second: signal.Signals) -> None:
    process = os.fork()
    if process == 0:
        StopRequest()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), second)
        os._exit(0)  # not reached
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 128 + second
