"""The keys of `engine`: the part of the configuration that belongs to the engines."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from s2l_nemo.engines.kinds import ENGINES
from s2l_nemo.fields import COUNT, POSITIVE, POSITIVE_COUNT, PROPER_SHARE, key


class Placement(str, Enum):
    """Which GPUs servers use."""

    colocated = "colocated"  # those of the trainer
    separate = "separate"  # GPUs of their own


@dataclass
class EngineConfig:
    """Where engines run, and what happens to servers. Nothing here changes what is sampled."""

    kind: str = key(
        "embedded",
        "in the trainer's process, the same in server processes, TensorRT-LLM, or vLLM",
        choices=ENGINES,
        may_change=True,
    )
    python: str | None = key(
        None, "interpreter of the server processes; null: the trainer's", may_change=True, path=True
    )
    startup_s: float = key(600.0, "deadline for a server to load its model", POSITIVE, may_change=True)
    request_s: float = key(
        1800.0, "longest time without a finished completion; a hung engine is found by it", POSITIVE, may_change=True
    )
    update_s: float = key(
        300.0, "deadline of one bucket of a refit, and of sleep and resume", POSITIVE, may_change=True
    )
    max_restarts: int = key(3, "restarts of each server over the run", COUNT, may_change=True)
    replicas_per_node: int = key(
        1, "servers of each model on a node; they share the prompts", POSITIVE_COUNT, may_change=True
    )
    tensor_parallel_size: int = key(1, "GPUs of one TensorRT-LLM or vLLM engine", POSITIVE_COUNT, may_change=True)
    memory_fraction: float = key(
        0.4,
        "of a GPU, for one engine: TensorRT-LLM's KV cache, of what is free; all of vLLM's, of the whole memory",
        PROPER_SHARE,
        may_change=True,
    )
    placement: Placement = key(
        Placement.colocated,
        "colocated: engines sleep while the actor trains; separate: they have GPUs of their own",
        may_change=True,
    )
    explorer_devices: str | None = key(
        None, "GPUs of the explorer's servers, '\"4,5\"' in a shell; needed with separate", may_change=True
    )
    learner_devices: str | None = key(None, "the same of the learner's servers", may_change=True)
