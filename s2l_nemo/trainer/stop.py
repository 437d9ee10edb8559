"""What Ctrl-C and SIGTERM do: the run finishes its step, saves and leaves. A second signal ends it at once."""

from __future__ import annotations

import os
import signal

import torch


class StopRequest:
    """Remembers the first SIGINT or SIGTERM of this process. The second one ends the process with 128 + signal."""

    def __init__(self) -> None:
        self.signal = 0
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._handle)

    def _handle(self, signum: int, _frame: object) -> None:
        if self.signal:
            os._exit(128 + signum)
        self.signal = signum

    def agreed(self) -> int:
        """The signal that any rank has received, 0 if none has. The answer is the same on every rank. Collective."""
        received = torch.tensor([self.signal], dtype=torch.int64)
        torch.distributed.all_reduce(received, op=torch.distributed.ReduceOp.MAX)
        return int(received.item())
