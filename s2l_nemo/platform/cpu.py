"""Lets NeMo 2.4 and Megatron-core 0.13 run unchanged on a machine without CUDA.

Both name the CUDA device in many places. `install()` maps each of them to the CPU, once a process, and refuses to do
anything where CUDA is there: no code path of the GPU build passes through this module. Every replacement says which
line upstream makes it necessary.
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
    """True where PyTorch sees no CUDA device, which is when `install` has to be called."""
    return not torch.cuda.is_available()


def install() -> None:
    """Maps CUDA names to the CPU and fills the gaps that Apex and Transformer Engine leave. Idempotent.

    Raises RuntimeError where CUDA is available.
    """
    if not needed():
        raise RuntimeError("the CPU layer must stay inactive where CUDA is available")
    if getattr(torch, "_s2l_cpu_layer", False):
        return
    torch._s2l_cpu_layer = True  # type: ignore[attr-defined]
    # NeMo reads it unguarded; a value below 21.11 also turns off persist_layer_norm, which torch's norm has no use for.
    os.environ.setdefault("NVIDIA_PYTORCH_VERSION", "21.01")
    os.environ.setdefault("NVTE_FRAMEWORK", "pytorch")
    _map_factories()
    _map_cuda_module()
    _map_tensor_methods()
    _map_megatron()
    _fill_apex()


def _names_cuda(device: object) -> bool:
    if isinstance(device, str):
        return device.startswith("cuda")
    return isinstance(device, torch.device) and device.type == "cuda"


def _map_factories() -> None:
    """`device="cuda"` is written out in megatron's optimizer, clip_grads, schedules and dist_checkpointing."""

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
    """Stands for a CUDA stream: nothing on the CPU runs asynchronously."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def wait_stream(self, stream: object) -> None: ...
    def synchronize(self) -> None: ...
    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *exc: object) -> None: ...


def _map_cuda_module() -> None:
    """Device queries, streams, typed constructors and the random state of torch.cuda."""
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
    """`.cuda()`, `.to("cuda")`, and the type names that megatron's distributed optimizer compares as strings."""
    to: Any = torch.Tensor.to
    type_of: Any = torch.Tensor.type

    def tensor_to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if _names_cuda(kwargs.get("device")):
            kwargs["device"] = CPU
        moved: torch.Tensor = to(self, *(CPU if _names_cuda(arg) else arg for arg in args), **kwargs)
        return moved

    def tensor_type(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        # distrib_optimizer.py accepts only 'torch.cuda.FloatTensor' and its half-precision kin
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

    optimizer: Any = importlib.import_module("megatron.core.optimizer.distrib_optimizer")
    # raises without Transformer Engine even where no parameter is fp8
    optimizer.quantize_param_shard = lambda *args, **kwargs: None
    set_states = optimizer.DistributedOptimizer._set_main_param_and_optimizer_states

    def set_states_with_step(self: Any, model_param: Any, tensors: dict[str, torch.Tensor]) -> None:
        # torch's AdamW keeps `step` in its state, Apex's and TE's do not: megatron's sharded format has no such tensor.
        # load_state_dict has already restored it from the parameter groups.
        group, order = self.model_param_group_index_map[model_param]
        state = self.optimizer.state[self.optimizer.param_groups[group]["params"][order]]
        if "step" in state:
            # load_state_dict gives all parameters one and the same tensor, which each of them would then increment
            state["step"] = state["step"].clone()
            tensors = {**tensors, "step": state["step"]}
        set_states(self, model_param, tensors)

    state_dict = optimizer.DistributedOptimizer.state_dict

    def state_dict_of_started_optimizer(self: Any) -> dict[str, Any]:
        # asserts that all parameters report one `step`; before the first update torch's AdamW has no state at all
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                state = self.optimizer.state[parameter]
                if not state:
                    state["step"] = torch.tensor(0.0)
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        return dict(state_dict(self))

    optimizer.DistributedOptimizer._set_main_param_and_optimizer_states = set_states_with_step
    optimizer.DistributedOptimizer.state_dict = state_dict_of_started_optimizer


class _NoSuchNorm(torch.nn.Module):
    """NeMo names Apex's norms in isinstance checks; without Apex no module is one."""


def _fill_apex() -> None:
    """Without Apex, NeMo leaves names undefined that it then uses. On GPU images Apex is the real one."""
    overrides: Any = importlib.import_module("nemo.collections.nlp.parts.nlp_overrides")
    mcore_optim: Any = importlib.import_module("nemo.core.optim.mcore_optim")
    overrides.HAVE_APEX = True  # NLPDDPStrategy refuses to start otherwise
    overrides.McoreDistributedOptimizer = mcore_optim.McoreDistributedOptimizer  # imported beside Apex's optimizer

    layers: Any = importlib.import_module("megatron.core.tensor_parallel.layers")
    build_model: Any = importlib.import_module("nemo.collections.nlp.modules.common.megatron.build_model")
    name = "set_defaults_if_not_set_tensor_model_parallel_attributes"
    setattr(build_model, name, getattr(layers, name))  # Apex's name, megatron-core's function

    utils: Any = importlib.import_module("nemo.collections.nlp.modules.common.megatron.utils")
    utils.HAVE_APEX = True
    utils.listify_model = lambda model: model if isinstance(model, list) else [model]
    for norm in ("FastLayerNorm", "FusedLayerNorm", "MixedFusedRMSNorm"):
        setattr(utils, norm, _NoSuchNorm)
