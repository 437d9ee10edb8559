"""How a bucket of a refit reaches the workers: as CUDA IPC handles, or as a file in shared memory.

Sources: llmapi/rlhf_utils.py of NVIDIA/TensorRT-LLM takes {GPU UUID: [(name, (rebuild, arguments))]} and sets
arguments[6] to the worker's own device; tests/unittest/_torch/ray_orchestrator fills it so, with a copy on each GPU.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file

from s2l_nemo.engines.protocol import Bucket

Handle = tuple[Callable[..., torch.Tensor], tuple[Any, ...]]  # what makes the tensor in another process
Handles = dict[str, list[tuple[str, Handle]]]  # by the UUID of the GPU


class Transport(Protocol):
    """Takes the buckets of an update to every worker of an engine."""

    def send(self, bucket: Bucket) -> None:
        """Returns once every worker has loaded the bucket."""
        ...

    def finish(self) -> None:
        """Gives the memory back that the update has taken."""
        ...


class Gpus(Protocol):
    """The GPUs that this process sees, by their numbers."""

    def uuids(self) -> Sequence[str]:
        """As TensorRT-LLM's workers call them, in the order of the numbers."""
        ...

    def copy(self, bucket: Bucket, number: int) -> Bucket:
        """The tensors on that GPU, in memory of their own. Whoever opens a handle of them sees their values."""
        ...

    def share(self, tensor: torch.Tensor) -> Handle:
        """A handle of a tensor that has been copied. It opens on the tensor's own GPU, as long as the tensor lives."""
        ...

    def collect(self) -> None:
        """Frees copies that nobody needs any more."""
        ...


class Cuda:
    """See `Gpus`."""

    def uuids(self) -> Sequence[str]:
        from tensorrt_llm._torch.utils import get_device_uuid

        return [get_device_uuid(number) for number in range(torch.cuda.device_count())]

    def copy(self, bucket: Bucket, number: int) -> Bucket:
        copies = {name: tensor.to(f"cuda:{number}", copy=True) for name, tensor in bucket.items()}
        torch.cuda.synchronize(number)  # workers read them on streams of their own
        return copies

    def share(self, tensor: torch.Tensor) -> Handle:
        from torch.multiprocessing.reductions import reduce_tensor

        handle: Handle = reduce_tensor(tensor)
        return handle

    def collect(self) -> None:
        torch.cuda.ipc_collect()
        torch.cuda.empty_cache()  # for the KV cache or the actor


class HandleTransport:
    """Copies a bucket to every GPU of the engine, since a handle opens on its tensor's own GPU only."""

    def __init__(self, update: Callable[[Handles], None], workers: Sequence[str], gpus: Gpus) -> None:
        """`update` returns once all workers have loaded what the handles stand for. `workers` are their GPUs' UUIDs.

        Raises RuntimeError if this process does not see one of those GPUs.
        """
        numbers = {uuid: number for number, uuid in enumerate(gpus.uuids())}
        hidden = [uuid for uuid in workers if uuid not in numbers]
        if hidden:
            raise RuntimeError(f"a worker of TensorRT-LLM uses {hidden[0]}, a GPU that its server does not see")
        self._update = update
        self._gpus = gpus
        self._numbers: Mapping[str, int] = {uuid: numbers[uuid] for uuid in workers}

    def send(self, bucket: Bucket) -> None:
        """See `Transport`. The copies live until `update` returns."""
        copies = {uuid: self._gpus.copy(bucket, number) for uuid, number in self._numbers.items()}
        self._update(
            {uuid: [(name, self._gpus.share(copy)) for name, copy in own.items()] for uuid, own in copies.items()}
        )

    def finish(self) -> None:
        self._gpus.collect()


class FileTransport:
    """Writes a bucket to a file, which the workers load with `RefitExtension.update_weights_from_file`."""

    def __init__(self, load: Callable[[str], object]) -> None:
        """`load` returns once all workers have loaded the file of that name."""
        self._load = load

    def send(self, bucket: Bucket) -> None:
        shared = Path("/dev/shm")
        with tempfile.TemporaryDirectory(prefix="s2l-refit-", dir=shared if shared.is_dir() else None) as folder:
            path = Path(folder) / "bucket.safetensors"
            save_file({name: tensor.contiguous() for name, tensor in bucket.items()}, path)
            self._load(str(path))

    def finish(self) -> None:
        """Each file has gone with its bucket."""
