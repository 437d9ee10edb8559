"""GPUs in this process's memory, with handles in the form of CUDA's."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch.multiprocessing.reductions import rebuild_cuda_tensor

from s2l_nemo.engines.protocol import Bucket
from s2l_nemo.engines.tensorrt_llm.transport import Handle

ARGUMENTS = rebuild_cuda_tensor.__code__.co_varnames[: rebuild_cuda_tensor.__code__.co_argcount]
DEVICE, HANDLE = ARGUMENTS.index("storage_device"), ARGUMENTS.index("storage_handle")


class HostGpus:
    """See `transport.Gpus`. As with CUDA, a handle opens on its tensor's own GPU alone, and as long as that lives.

    `names` are the UUIDs in the order of this process, which need not be that of the workers.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._living: weakref.WeakValueDictionary[int, torch.Tensor] = weakref.WeakValueDictionary()
        self._gpu: dict[int, str] = {}  # of each copy that there has been
        self.copied: list[tuple[str, int]] = []  # where a bucket of how many tensors went
        self.opened: list[str] = []
        self.collected = 0

    def uuids(self) -> Sequence[str]:
        return self._names

    def copy(self, bucket: Bucket, number: int) -> Bucket:
        copies = {name: tensor.clone() for name, tensor in bucket.items()}
        for copy in copies.values():
            key = len(self._gpu)
            self._living[key], self._gpu[key] = copy, self._names[number]
        self.copied.append((self._names[number], len(bucket)))
        return copies

    def share(self, tensor: torch.Tensor) -> Handle:
        key = next(key for key, copy in self._living.items() if copy is tensor)  # no other tensor has a handle
        arguments: list[Any] = [None] * len(ARGUMENTS)
        arguments[HANDLE] = key
        return self._open, tuple(arguments)

    def collect(self) -> None:
        self.collected += 1
        assert not self._living, "the engine keeps copies of an update that is complete"

    def _open(self, *arguments: Any) -> torch.Tensor:
        """In a worker, which puts its own number in the place of the device."""
        from tensorrt_llm._torch.utils import get_device_uuid

        mine, its = get_device_uuid(arguments[DEVICE]), self._gpu[arguments[HANDLE]]
        if mine != its:
            raise RuntimeError(f"CUDA error: invalid device context: a handle of {its} on {mine}")
        self.opened.append(mine)
        return self._living[arguments[HANDLE]]
