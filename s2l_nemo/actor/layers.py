"""Layer specifications with optional q/k norms: Transformer Engine's on GPU images, torch's elsewhere."""

from __future__ import annotations

import torch
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig

from s2l_nemo.actor.attention import TorchAttention


class TorchRMSNorm(torch.nn.RMSNorm):
    """RMSNorm for local layers. Megatron's own wrapper of torch's norm refuses sequence parallelism.

    Under sequence parallelism each rank sees a part of the tokens: the mark makes Megatron sum the weight's gradient
    over the tensor-parallel ranks (`finalize_model_grads.py`).
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float) -> None:
        super().__init__(hidden_size, eps=eps)
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalises in float32, as Qwen3 does, and returns the type of `x`."""
        normed = torch.nn.functional.rms_norm(x.float(), self.normalized_shape, None, self.eps)
        return normed.to(x.dtype) * self.weight


def block_spec(transformer_engine: bool, layers: int, qk_norm: bool) -> ModuleSpec | TransformerBlockSubmodules:
    """The stack of layers of one pipeline stage, in Megatron-core modules."""
    if transformer_engine:
        spec = get_gpt_layer_with_transformer_engine_spec(qk_layernorm=qk_norm)
        # its attention kernels know packed sequences, but not a prompt that several of them share
        spec.submodules.self_attention.submodules.core_attention = TorchAttention
        return spec
    spec = get_gpt_layer_local_spec(qk_layernorm=qk_norm, normalization="RMSNorm")
    modules = spec.submodules
    modules.input_layernorm = modules.pre_mlp_layernorm = TorchRMSNorm
    attention = modules.self_attention.submodules
    if qk_norm:
        attention.q_layernorm = attention.k_layernorm = TorchRMSNorm
    attention.core_attention = TorchAttention
    return TransformerBlockSubmodules(layer_specs=[spec] * layers, layer_norm=TorchRMSNorm)
