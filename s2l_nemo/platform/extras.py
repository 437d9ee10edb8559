"""Stands in for what is missing of Apex and Transformer Engine, on a CPU or a GPU.

Layers of torch (`model.transformer_engine=false`) need neither package, but NeMo 2.4 and Megatron-core 0.13 use names
of theirs anyway. NVIDIA's images have both, though their Apex may lack the parts that NeMo asks for: `apex.transformer`
left it in January 2026, and its distributed Adam is a choice of who builds it. NeMo and Megatron say in flags what they
have found, and these flags decide. Each replacement says what upstream makes it necessary.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import torch


def fill() -> None:
    """Fills the gaps of what is missing. Call it before an actor is built. Idempotent."""
    # megatron_base_model.py matches it against a pattern, and only NVIDIA's images set it. No value between 21.11 and
    # the newest image changes anything else.
    os.environ.setdefault("NVIDIA_PYTORCH_VERSION", "25.05")
    if getattr(torch, "_s2l_extras", False):
        return
    torch._s2l_extras = True  # type: ignore[attr-defined]
    _fill_apex()
    _fill_quantization()
    _fill_adam()


def _fill_quantization() -> None:
    """Megatron's distributed optimizer raises without Transformer Engine, even if no parameter is fp8."""
    if importlib.import_module("megatron.core.fp8_utils").HAVE_TE:
        return
    optimizer: Any = importlib.import_module("megatron.core.optimizer.distrib_optimizer")
    optimizer.quantize_param_shard = lambda *args, **kwargs: None


def _fill_adam() -> None:
    """Without both packages Megatron's distributed optimizer runs torch's AdamW, whose state it does not expect."""
    optimizer: Any = importlib.import_module("megatron.core.optimizer.distrib_optimizer")
    if optimizer.HAVE_APEX_OR_TE:
        return
    set_states = optimizer.DistributedOptimizer._set_main_param_and_optimizer_states

    def set_states_with_step(self: Any, model_param: Any, tensors: dict[str, torch.Tensor]) -> None:
        # torch's AdamW keeps `step` in its state. Those of Apex and TE do not, so megatron's sharded format lacks it.
        # load_state_dict has already restored it from the parameter groups.
        group, order = self.model_param_group_index_map[model_param]
        state = self.optimizer.state[self.optimizer.param_groups[group]["params"][order]]
        if "step" in state:
            # load_state_dict gives all parameters the same tensor, and each of them would increment it
            state["step"] = state["step"].clone()
            tensors = {**tensors, "step": state["step"]}
        set_states(self, model_param, tensors)

    state_dict = optimizer.DistributedOptimizer.state_dict

    def state_dict_of_started_optimizer(self: Any) -> dict[str, Any]:
        # It asserts that all parameters report one `step`. Before the first update torch's AdamW has no state.
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
    """Stands for Apex's norms, which NeMo names in isinstance checks. Without Apex no module is one."""


def _fill_apex() -> None:
    """Defines the names that NeMo leaves undefined without Apex but uses. Each module looks for other parts of Apex."""
    overrides: Any = importlib.import_module("nemo.collections.nlp.parts.nlp_overrides")
    if not overrides.HAVE_APEX:  # else NLPDDPStrategy refuses to start
        mcore_optim: Any = importlib.import_module("nemo.core.optim.mcore_optim")
        overrides.McoreDistributedOptimizer = mcore_optim.McoreDistributedOptimizer  # imported together with Apex's
        overrides.HAVE_APEX = True

    build_model: Any = importlib.import_module("nemo.collections.nlp.modules.common.megatron.build_model")
    if not build_model.HAVE_APEX:
        layers: Any = importlib.import_module("megatron.core.tensor_parallel.layers")
        name = "set_defaults_if_not_set_tensor_model_parallel_attributes"
        setattr(build_model, name, getattr(layers, name))  # taken from Apex; megatron-core has the same function
        build_model.HAVE_APEX = True

    utils: Any = importlib.import_module("nemo.collections.nlp.modules.common.megatron.utils")
    if not utils.HAVE_APEX:
        utils.listify_model = lambda model: model if isinstance(model, list) else [model]
        for norm in ("FastLayerNorm", "FusedLayerNorm", "MixedFusedRMSNorm"):
            setattr(utils, norm, _NoSuchNorm)
        utils.HAVE_APEX = True
