"""What a signal does: the run finishes its step, saves and leaves. A second Ctrl-C or SIGTERM ends it at once."""

from __future__ import annotations

import os
import signal

import torch

from s2l_nemo.platform.launch import caught_signals

URGENT = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Remembers the first signal of this process that asks it to stop.

    SIGUSR1, SIGUSR2 and SIGHUP are warnings of a scheduler or a terminal: what comes after them may be SIGTERM, and the
    run still saves. The second SIGINT or SIGTERM ends the process with 128 + signal.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._urgent = False
        for signum in caught_signals():
            signal.signal(signum, self._handle)

    def _handle(self, signum: int, _frame: object) -> None:
        if self._urgent and signum in URGENT:
            os._exit(128 + signum)
        self._urgent = self._urgent or signum in URGENT
        self.signal = self.signal or signum

    def agreed(self) -> int:
        """The signal that any rank has received, 0 if none has. The answer is the same on every rank. Collective."""
        received = torch.tensor([self.signal], dtype=torch.int64)
        torch.distributed.all_reduce(received, op=torch.distributed.ReduceOp.MAX)
        return int(received.item())
