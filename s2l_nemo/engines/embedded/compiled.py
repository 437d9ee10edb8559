"""How numba compiles the engine's kernels, and the two kinds of numbers that they read and write."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
import torch
from llvmlite.binding import get_host_cpu_features, get_host_cpu_name
from numba.extending import overload
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Numbers = NDArray[np.float32] | NDArray[np.uint16]  # float32, or the bits of bfloat16, which numpy does not know
Kernel = TypeVar("Kernel", bound=Callable[..., object])

# Sums may be taken in any order, which vectors need. What is not a number stays so: a fault in the weights must show.
_RULES: dict[str, Any] = {"fastmath": {"reassoc", "contract", "arcp", "nsz"}, "error_model": "numpy"}
_SETTINGS: Any = numba.config
_FEATURES: str = _SETTINGS.CPU_FEATURES or get_host_cpu_features().flatten()  # for which numba compiles
# numba looks for changes in the file of a kernel only, so what is in this one is part of the name.
_HERE = f"{_SETTINGS.CPU_NAME or get_host_cpu_name()} {_FEATURES} {Path(__file__).read_text(encoding='utf-8')}"


def processor_has(feature: str) -> bool:
    """Whether kernels may use these instructions, by LLVM's name: that of `lscpu` but for AMX."""
    return f"+{feature}" in _FEATURES.split(",")


def part(kernel: Kernel) -> Kernel:
    """Compiles it within the kernels that call it."""
    return cast(Kernel, numba.njit(**_RULES)(kernel))


def compiled(kernel: Kernel, *arguments: str, threads: bool = False) -> Kernel:
    """Compiles for arguments of these types, once for a machine: the code is kept beside Python's own, or in the user's
    cache. Where neither can be written, each process compiles it, which takes it some seconds.

    With `threads` its loops over `prange` use as many threads as `share_threads` said last.
    """
    # numba's files have this name. Two kinds of arguments, or machines, in one file get each other's code in a race.
    kernel.__qualname__ = f"{kernel.__name__}_{hashlib.sha256(f'{arguments} {_HERE}'.encode()).hexdigest()[:16]}"

    def build(cache: bool) -> Kernel:
        types, torch_threads = f"void({', '.join(arguments)})", torch.get_num_threads()
        function = numba.njit(types, cache=cache, parallel=threads, **_RULES)(kernel)
        torch.set_num_threads(torch_threads)  # the first one with threads tells OpenMP to use all cores
        return cast(Kernel, function)

    try:
        return build(cache=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError):  # no place for it, or half of it
        return build(cache=False)


def numbers(tensor: torch.Tensor) -> Numbers:
    """The tensor's own numbers."""
    array: Numbers = (tensor if tensor.dtype == torch.float32 else tensor.view(torch.uint16)).numpy()
    return array


def share_threads() -> None:
    """Kernels use as many threads as torch does: the same ones, where both have the same OpenMP library."""
    numba.set_num_threads(min(torch.get_num_threads(), _SETTINGS.NUMBA_NUM_THREADS))


def narrow(number: np.float32, like: Any) -> Any:
    """The number in the kind of `like`, rounded to the nearest, to the even one of two. Within kernels only."""
    raise NotImplementedError


@overload(narrow, strict=False)
def _narrow(number: Any, like: Any) -> Callable[[Any, Any], Any] | None:  # noqa: ARG001 numba goes by the types
    if like == numba.types.float32:
        return lambda number, like: number  # noqa: ARG005
    if like == numba.types.uint16:
        return lambda number, like: _rounded(number)  # noqa: ARG005
    return None


@part
def _rounded(number: np.float32) -> np.uint16:
    bits = np.float32(number).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = np.uint16(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))
    return rounded if number == number else np.uint16(0x7FC0)
