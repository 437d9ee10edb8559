"""Which GPUs a replica of an engine server gets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from s2l_nemo.engines.gpus import devices_of, visible_gpus
from s2l_nemo.engines.options import EngineConfig
from s2l_nemo.errors import UserError
from s2l_nemo.types import Source

ROOT = Path(__file__).resolve().parents[2]

BOTH = (Source.EXPLORER, Source.LEARNER)
NODE = [str(gpu) for gpu in range(8)]


@pytest.mark.parametrize(
    ("explorer", "learner", "tp", "replica", "visible", "expected"),
    [
        (None, None, 1, 0, [], (None, None)),  # no GPU: nothing to choose
        (None, None, 1, 3, NODE, ("3", "3")),  # colocated: the GPU of the rank that speaks to it
        (None, None, 2, 1, NODE, ("2,3", "2,3")),
        (None, None, 2, 1, ["4", "5", "6", "7"], ("6,7", "6,7")),  # the trainer has half of the node
        (None, None, 1, 1, ["GPU-8a", "GPU-8b"], ("GPU-8b", "GPU-8b")),
        ("4,5", "6,7", 2, 0, NODE, ("4,5", "6,7")),
        ("4,5", "6,7", 1, 1, NODE, ("5", "7")),
        ("4,5", "6,7", 1, 1, ["0", "1"], ("5", "7")),  # of the node, whatever the trainer sees
        ("4, 5", "6, 7", 2, 0, [], ("4,5", "6,7")),
    ],
)
def test_devices_of_a_replica(
    explorer: str | None, learner: str | None, tp: int, replica: int, visible: list[str], expected: tuple[str, str]
) -> None:
    replicas = replica + 1
    config = EngineConfig(
        tensor_parallel_size=tp, replicas_per_node=replicas, explorer_devices=explorer, learner_devices=learner
    )
    assert tuple(devices_of(config, source, replica, visible) for source in BOTH) == expected


@pytest.mark.parametrize(
    ("listed", "count", "expected"),
    [
        (None, 2, ["0", "1"]),
        ("4,5,6,7", 4, ["4", "5", "6", "7"]),
        ("6, 2", 2, ["6", "2"]),
        ("3,-1,5", 1, ["3"]),  # CUDA stops at the first name that it does not know
        ("GPU-8a,GPU-8b", 2, ["GPU-8a", "GPU-8b"]),
        ("", 0, []),
    ],
)
def test_gpus_that_the_trainer_sees(listed: str | None, count: int, expected: list[str]) -> None:
    environ = {} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}
    assert visible_gpus(environ, count) == expected


@pytest.mark.parametrize(("named", "seen"), [({}, ""), ({"CUDA_VISIBLE_DEVICES": "0"}, "0")])
def test_tests_see_no_gpu_that_nobody_has_named(named: dict[str, str], seen: str) -> None:
    """Those of two ranks would fail where there is one GPU."""
    code = "import os, tests.conftest; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    bare = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=bare | named, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{seen}\n"


def test_too_few_gpus() -> None:
    config = EngineConfig(tensor_parallel_size=2, replicas_per_node=2)
    with pytest.raises(UserError) as caught:
        devices_of(config, Source.LEARNER, 0, ["4", "5", "6"])
    assert str(caught.value) == (
        "engine.replicas_per_node=2 x engine.tensor_parallel_size=2 need 4 GPUs, and the trainer sees 3 (4,5,6): "
        "lower one of them, or let CUDA_VISIBLE_DEVICES name more"
    )


@pytest.mark.parametrize("listed", [None, "MIG-1f,MIG-2f"])
def test_names_where_numbers_are_wanted(listed: str | None) -> None:
    config = EngineConfig(kind="tensorrt_llm", tensor_parallel_size=2, learner_devices=listed)
    with pytest.raises(UserError) as caught:
        devices_of(config, Source.LEARNER, 0, ["MIG-1f", "MIG-2f"])
    assert str(caught.value) == (
        "engine.kind=tensorrt_llm knows GPUs by their numbers, not as MIG-1f: give CUDA_VISIBLE_DEVICES the numbers "
        "that nvidia-smi shows"
    )
