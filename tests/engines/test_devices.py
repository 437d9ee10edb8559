"""Which GPUs a replica of an engine server gets."""

from __future__ import annotations

import pytest

from s2l_nemo.engines.build import devices_of
from s2l_nemo.engines.options import EngineConfig
from s2l_nemo.types import Source


@pytest.mark.parametrize(
    ("explorer", "learner", "tp", "replica", "on_gpu", "expected"),
    [
        (None, None, 1, 0, False, (None, None)),  # no GPU: nothing to choose
        (None, None, 1, 3, True, ("3", "3")),  # colocated: the GPU of the rank that speaks to it
        (None, None, 2, 1, True, ("2,3", "2,3")),
        ("4,5", "6,7", 2, 0, True, ("4,5", "6,7")),
        ("4,5", "6,7", 1, 1, True, ("5", "7")),
    ],
)
def test_devices_of_a_replica(
    explorer: str | None, learner: str | None, tp: int, replica: int, on_gpu: bool, expected: tuple[str, str]
) -> None:
    config = EngineConfig(tensor_parallel_size=tp, explorer_devices=explorer, learner_devices=learner)
    found = tuple(devices_of(config, source, replica, on_gpu=on_gpu) for source in (Source.EXPLORER, Source.LEARNER))
    assert found == expected
