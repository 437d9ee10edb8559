"""One gloo rank for all tests of the trainer, and signal handlers that are put back."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import torch

from s2l_nemo.platform.launch import STOP_SIGNALS
from s2l_nemo.trainer.stop import StopRequest


@pytest.fixture(scope="package", autouse=True)
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store = tmp_path_factory.mktemp("ranks") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    handlers = {signum: signal.getsignal(signum) for signum in STOP_SIGNALS}
    yield StopRequest()
    for signum, handler in handlers.items():
        signal.signal(signum, handler)
