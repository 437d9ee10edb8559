"""Tensors from one process to another through memory that both map: one copy in, one copy out.

The memory is an anonymous file of the writer (memfd), which the reader opens under /proc/PID/fd. It has no name, so
whatever ends either process leaves nothing behind, and a container's --shm-size does not limit it. Another user's
process cannot open it.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
from collections.abc import Mapping
from typing import Any

import torch

from s2l_nemo.engines.protocol import Bucket
from s2l_nemo.errors import UserError

_ALIGNMENT = 64  # bytes; a cache line
_PAGE = 2**21
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

_NAME = "s2l_nemo_refit"  # of the memory; /proc shows it
_SLOTS = 16  # more than any writer has

Layout = dict[str, Any]


class Segment:
    """The writer's side: holds one bucket at a time. It grows to the largest one and then is used again and again."""

    def __init__(self, slot: int) -> None:
        self._slot = slot  # what the reader knows it by
        self._fd = -1
        self._memory: mmap.mmap | None = None

    def write(self, bucket: Mapping[str, torch.Tensor]) -> Layout:
        """Copies the tensors, from whichever device, and returns what a `SegmentReader` needs to find them.

        Raises ValueError for a tensor that is not of bfloat16, float16 or float32, and UserError if there is not enough
        memory.
        """
        places, end = [], 0
        for name, tensor in bucket.items():
            dtype = str(tensor.dtype).removeprefix("torch.")
            if dtype not in _DTYPES:
                raise ValueError(f"tensor {name} has type {dtype}: weights are of {', '.join(_DTYPES)}")
            places.append({"name": name, "dtype": dtype, "shape": list(tensor.shape), "offset": end})
            end += -(-tensor.numel() * tensor.element_size() // _ALIGNMENT) * _ALIGNMENT
        memory = self._of_size(end)
        for tensor, place in zip(bucket.values(), places, strict=True):
            _view(memory, place).copy_(tensor)
        return {"slot": self._slot, "pid": os.getpid(), "fd": self._fd, "size": len(memory), "tensors": places}

    def close(self) -> None:
        """Gives the memory back, once the reader has let go of it too."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._memory = -1, None

    def _of_size(self, size: int) -> mmap.mmap:
        if self._memory is not None and len(self._memory) >= size:
            return self._memory
        self.close()
        size = max(1, -(-size // _PAGE)) * _PAGE
        self._fd = os.memfd_create(_NAME)
        try:
            if size > _available_bytes():  # taking it would have the kernel kill some process for want of memory
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
            os.posix_fallocate(self._fd, 0, size)  # now, rather than a SIGBUS in the middle of a copy
            self._memory = mmap.mmap(self._fd, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        except OSError as error:
            self.close()
            raise UserError(
                f"no {size / 2**20:.0f} MiB of shared memory for a bucket of the weight update ({error.strerror}): "
                "lower rollout.refit_bucket_mb or give the container more memory"
            ) from None
        return self._memory


class SegmentReader:
    """The reader's side: maps the segment of each slot once, and again if the writer has taken a new one."""

    def __init__(self) -> None:
        self._mapped: dict[int, tuple[int, mmap.mmap]] = {}  # by slot: inode, memory

    def read(self, layout: Layout) -> Bucket:
        """Views of the tensors of one bucket, which the writer may overwrite once it has been told so.

        Raises ValueError for a layout that no `Segment` has written, OSError if its writer is gone.
        """
        places = _checked(layout)
        inode, memory = self._mapped.get(layout["slot"], (None, None))
        path = f"/proc/{layout['pid']}/fd/{layout['fd']}"
        if not os.readlink(path).startswith(f"/memfd:{_NAME}"):  # and no other file of a process of this user
            raise ValueError(f"{path} is no memory of a weight update")
        opened = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if memory is None or os.fstat(opened).st_ino != inode:
                memory = mmap.mmap(opened, layout["size"], flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
                # What was mapped before goes with its last view.
                self._mapped[layout["slot"]] = os.fstat(opened).st_ino, memory
        finally:
            os.close(opened)
        return {place["name"]: _view(memory, place) for place in places}


def _checked(layout: Layout) -> list[dict[str, Any]]:
    """The tensors of a layout. Raises ValueError unless each lies in the memory, whose size the layout states."""
    numbers = [layout.get(key) for key in ("slot", "pid", "fd", "size")]
    places = layout.get("tensors")
    if (
        not all(map(_is_size, numbers))
        or layout["slot"] >= _SLOTS
        or not layout["size"]
        or not isinstance(places, list)
    ):
        raise ValueError("the layout lacks slot, pid, fd, size or tensors")
    for place in places:
        texts = [place.get(key) for key in ("name", "dtype")] if isinstance(place, dict) else [None]
        if not all(isinstance(text, str) for text in texts) or place["dtype"] not in _DTYPES:
            raise ValueError(f"a tensor has no name, or a type that is none of {', '.join(_DTYPES)}")
        shape, offset, itemsize = place.get("shape"), place.get("offset"), _DTYPES[place["dtype"]].itemsize
        if not isinstance(shape, list) or not all(map(_is_size, [*shape, offset])) or offset % itemsize:
            raise ValueError(f"{place['name']!r:.80} has shape {shape!r:.80} at {offset!r:.80}")
        if offset + math.prod(shape) * itemsize > layout["size"] or math.prod(size or 1 for size in shape) >= 2**60:
            raise ValueError(
                f"{place['name']!r:.80} of shape {shape!r:.80} at {offset} ends behind byte {layout['size']}"
            )
    return places


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**60


def _available_bytes() -> int:
    """What this machine can give without swapping."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))


def _view(memory: mmap.mmap, place: Mapping[str, Any]) -> torch.Tensor:
    shape = tuple(place["shape"])
    count = math.prod(shape)
    dtype = _DTYPES[place["dtype"]]
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=place["offset"]).view(shape)
