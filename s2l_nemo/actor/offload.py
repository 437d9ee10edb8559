"""Takes weights and gradients of a sharded actor out of the device's memory while engines generate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch


class Offload:
    """Moves weights to host memory and back, and drops gradients. All tensors remain the same objects.

    Megatron's parameters, gradients and the shards of its optimizer are views of a few large storages. Only the
    storages are emptied and filled, so that the views stay valid. Gradients come back with any content: a phase of
    updates begins by zeroing them.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._weights: list[tuple[torch.UntypedStorage, torch.Tensor]] = []  # with their content in host memory
        self._gradients: list[tuple[torch.UntypedStorage, int]] = []  # with their bytes

    def release(self) -> None:
        """Frees the device's memory. Nothing happens if it is free already."""
        if self._weights:
            return
        for storage in _storages(parameter.data for parameter in self._parameters):
            content = _bytes_of(storage)
            host = torch.empty(content.shape, dtype=torch.uint8, pin_memory=content.is_cuda)
            self._weights.append((storage, host.copy_(content)))
        for storage in _storages(parameter.main_grad for parameter in self._parameters):  # type: ignore[attr-defined]
            self._gradients.append((storage, storage.nbytes()))
        for storage in (*(storage for storage, _ in self._weights), *(storage for storage, _ in self._gradients)):
            storage.resize_(0)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def restore(self) -> None:
        """Takes the memory back, with the weights in it. Nothing happens if it was not released."""
        for storage, host in self._weights:
            storage.resize_(host.numel())
            _bytes_of(storage).copy_(host)
        for storage, size in self._gradients:
            storage.resize_(size)
        self._weights, self._gradients = [], []


def _storages(tensors: Iterable[torch.Tensor]) -> Iterator[torch.UntypedStorage]:
    """Each storage once: many tensors are views of one."""
    seen: set[int] = set()
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            yield storage


def _bytes_of(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
