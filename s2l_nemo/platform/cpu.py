"""Lets NeMo 2.4 and Megatron-core 0.13 run unchanged on a machine without CUDA.

Both name the CUDA device in many places. `install()` maps each of them to the CPU, once in a process. It refuses to do
so if CUDA is there: a run on GPUs uses nothing of this module. Each replacement says what upstream makes it necessary.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from typing import Any

import torch

CPU = torch.device("cpu")
FACTORIES = ("tensor", "as_tensor", "zeros", "ones", "empty", "full", "empty_like", "zeros_like", "arange")


def needed() -> bool:
    """Whether PyTorch sees no CUDA device, so that `install` must be called."""
    return not torch.cuda.is_available()


def install() -> None:
    """Maps CUDA names to the CPU. Idempotent. `extras.fill` does what a missing Apex or Transformer Engine asks for.

    Raises RuntimeError if CUDA is available.
    """
    if not needed():
        raise RuntimeError("the CPU layer must stay inactive where CUDA is available")
    if getattr(torch, "_s2l_cpu_layer", False):
        return
    torch._s2l_cpu_layer = True  # type: ignore[attr-defined]
    os.environ.setdefault("NVTE_FRAMEWORK", "pytorch")
    _map_factories()
    _map_cuda_module()
    _map_tensor_methods()
    _map_megatron()


def _names_cuda(device: object) -> bool:
    if isinstance(device, str):
        return device.startswith("cuda")
    return isinstance(device, torch.device) and device.type == "cuda"


def _map_factories() -> None:
    """Megatron's optimizer, clip_grads, schedules and dist_checkpointing make tensors with `device="cuda"`."""

    def on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        @functools.wraps(factory)
        def call(*args: Any, **kwargs: Any) -> torch.Tensor:
            if "device" in kwargs and _names_cuda(kwargs["device"]):
                kwargs["device"] = CPU
            return factory(*args, **kwargs)

        return call

    for name in FACTORIES:
        setattr(torch, name, on_cpu(getattr(torch, name)))


class _Stream:
    """Stands for a CUDA stream. Nothing on the CPU runs asynchronously, so it does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def wait_stream(self, stream: object) -> None: ...
    def synchronize(self) -> None: ...
    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *exc: object) -> None: ...


def _map_cuda_module() -> None:
    """Replaces device queries, streams, typed constructors and the random state of torch.cuda."""
    cuda = torch.cuda
    get_state, set_state = torch.get_rng_state, torch.set_rng_state
    replaced: dict[str, Any] = {
        "current_device": lambda: CPU,
        "set_device": lambda _: None,
        "synchronize": lambda *args: None,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda *args: None,
        "manual_seed": torch.manual_seed,
        "Stream": _Stream,
        "current_stream": _Stream,
    }
    for name in ("Long", "Float", "Int", "Bool", "Half", "BFloat16", "Byte"):
        replaced[f"{name}Tensor"] = getattr(torch, f"{name}Tensor")
    for name, value in replaced.items():
        setattr(cuda, name, value)
    modules: tuple[Any, ...] = (cuda, cuda.random)
    for module in modules:
        module.get_rng_state = lambda *args, **kwargs: get_state()
        module.set_rng_state = lambda state, *args, **kwargs: set_state(state)


def _map_tensor_methods() -> None:
    """Replaces `.cuda()`, `.to("cuda")`, and type names, which megatron's distributed optimizer compares as text."""
    to: Any = torch.Tensor.to
    type_of: Any = torch.Tensor.type

    def tensor_to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if _names_cuda(kwargs.get("device")):
            kwargs["device"] = CPU
        moved: torch.Tensor = to(self, *(CPU if _names_cuda(arg) else arg for arg in args), **kwargs)
        return moved

    def tensor_type(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        # distrib_optimizer.py accepts only 'torch.cuda.FloatTensor' and the types of half precision
        name = type_of(self, *args, **kwargs)
        return name.replace("torch.", "torch.cuda.", 1) if isinstance(name, str) else name

    torch.Tensor.to = tensor_to  # type: ignore[method-assign, assignment]
    torch.Tensor.type = tensor_type  # type: ignore[method-assign, assignment]
    torch.Tensor.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign]
    torch.nn.Module.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign]


def _map_megatron() -> None:
    random: Any = importlib.import_module("megatron.core.tensor_parallel.random")
    get_state, set_state = torch.get_rng_state, torch.set_rng_state
    random._get_cuda_rng_state = lambda *args, **kwargs: get_state()
    random._set_cuda_rng_state = lambda state, *args, **kwargs: set_state(state)
