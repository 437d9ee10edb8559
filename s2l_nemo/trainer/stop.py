"""Ctrl-C and SIGTERM: finish the step, save, leave. A second one leaves at once."""

from __future__ import annotations

import os
import signal

import torch


class StopRequest:
    """Remembers the first SIGINT or SIGTERM of this process; the second one ends it."""

    def __init__(self) -> None:
        self.signal = 0
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._handle)

    def _handle(self, signum: int, frame: object) -> None:
        if self.signal:
            os._exit(128 + signum)
        self.signal = signum

    def agreed(self) -> int:
        """The signal that any rank has received, 0 for none; the same answer on every rank. Collective."""
        received = torch.tensor([self.signal], dtype=torch.int64)
        torch.distributed.all_reduce(received, op=torch.distributed.ReduceOp.MAX)
        return int(received.item())
