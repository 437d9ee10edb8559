"""Which GPUs a server gets, in the form of CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from s2l_nemo.engines.kinds import ENGINES
from s2l_nemo.engines.options import EngineConfig
from s2l_nemo.errors import UserError
from s2l_nemo.types import Source


def visible_gpus(environ: Mapping[str, str], count: int) -> list[str]:
    """The `count` GPUs that PyTorch sees, under the names that this process was given, or their numbers.

    PyTorch calls them cuda:0, cuda:1 and so on. A list in CUDA_VISIBLE_DEVICES may end with entries that CUDA ignores.
    """
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(count)) if listed is None else (name.strip() for name in listed.split(","))
    return list(names)[:count]


def devices_of(config: EngineConfig, source: Source, replica: int, visible: Sequence[str]) -> str | None:
    """The GPUs of one server. None: there are no GPUs, and no list of them in the configuration.

    They are the replica's part of the list in the configuration. If there is none, they are its part of `visible`, the
    GPUs that the trainer sees.

    Raises UserError if those are too few, or have names where the kind of engine wants numbers.
    """
    listed = config.explorer_devices if source is Source.EXPLORER else config.learner_devices
    if listed is None and not visible:
        return None
    all_replicas = config.replicas_per_node * config.tensor_parallel_size
    names = list(visible) if listed is None else listed.split(",")
    if listed is None and len(names) < all_replicas:  # the length of a list is checked with the configuration
        raise UserError(
            f"engine.replicas_per_node={config.replicas_per_node} x engine.tensor_parallel_size="
            f"{config.tensor_parallel_size} need {all_replicas} GPUs, and the trainer sees {len(names)} "
            f"({','.join(names)}): lower one of them, or let CUDA_VISIBLE_DEVICES name more"
        )
    first = replica * config.tensor_parallel_size
    own = [name.strip() for name in names[first : first + config.tensor_parallel_size]]
    named = [name for name in own if not name.isdecimal()]
    if named and ENGINES[config.kind].counts_gpus:
        raise UserError(
            f"engine.kind={config.kind} knows GPUs by their numbers, not as {named[0]}: "
            "give CUDA_VISIBLE_DEVICES the numbers that nvidia-smi shows"
        )
    return ",".join(own)
