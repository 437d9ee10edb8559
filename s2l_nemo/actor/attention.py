"""Core attention on torch's scaled_dot_product_attention, for machines without Transformer Engine."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig

# cuDNN plans its attention anew for every length, and each micro-batch has its own. Flash attention does not.
torch.backends.cuda.enable_cudnn_sdp(False)


class TorchAttention(MegatronModule):  # type: ignore[misc]  # Megatron has no types
    """Causal attention in place of megatron's DotProductAttention, which holds all T x T scores in memory.

    Sequences are right-padded, so the causal mask alone keeps real tokens from seeing padding.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        softmax_scale: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(config)
        assert attn_mask_type == AttnMaskType.causal, attn_mask_type
        self.softmax_scale = softmax_scale

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: object | None = None,
    ) -> torch.Tensor:
        """`query` [T, B, heads, head_dim], `key` and `value` [T, B, kv_heads, head_dim] -> [T, B, heads * head_dim]."""
        assert attention_bias is None
        assert packed_seq_params is None
        out_BHTD = torch.nn.functional.scaled_dot_product_attention(
            query.permute(1, 2, 0, 3),
            key.permute(1, 2, 0, 3),
            value.permute(1, 2, 0, 3),
            is_causal=True,
            scale=self.softmax_scale,
            enable_gqa=query.size(2) != key.size(2),
        )
        return out_BHTD.permute(2, 0, 1, 3).reshape(query.size(0), query.size(1), -1)
