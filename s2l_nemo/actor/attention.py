"""Core attention on torch's scaled_dot_product_attention, for machines without Transformer Engine."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig

from s2l_nemo.algorithm.packing import PackedRows

# cuDNN plans its attention anew for every length, and each micro-batch has its own. Flash attention does not.
torch.backends.cuda.enable_cudnn_sdp(False)


class TorchAttention(MegatronModule):  # type: ignore[misc]  # Megatron has no types
    """Causal attention of packed rows, in place of megatron's DotProductAttention, which holds all T x T scores.

    A prompt attends to itself. The responses to it attend to its keys and values and to their own.
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
        attention_bias: PackedRows | None = None,
        packed_seq_params: object | None = None,
    ) -> torch.Tensor:
        """`query` [N, 1, heads, head_dim], `key` and `value` [N, 1, kv_heads, head_dim] -> [N, 1, heads * head_dim].

        `attention_bias` is what Megatron hands down to every layer untouched, so it carries the packed rows.
        """
        assert attention_mask is None
        assert attention_bias is not None
        assert packed_seq_params is None
        query_NHD, key_NHD, value_NHD = query[:, 0], key[:, 0], value[:, 0]
        size, parts = query.size(0), []
        for span in attention_bias.spans:
            prompt = slice(span.start, span.start + span.prompt)
            own = (query_NHD[prompt][None], key_NHD[prompt][None], value_NHD[prompt][None])
            parts.append(self._attend(*own)[0])
            n = len(span.responses)
            rows = [packed[span.rows_R].unflatten(0, (n, -1)) for packed in (query_NHD, key_NHD, value_NHD)]
            shared = [packed[prompt].expand(n, -1, -1, -1) for packed in (key_NHD, value_NHD)]
            keys, values = (torch.cat(pair, dim=1) for pair in zip(shared, rows[1:], strict=True))
            parts.append(self._attend(rows[0], keys, values, span.sees_RK).flatten(0, 1)[span.tokens_R])
        out_ND = torch.cat([part.flatten(1) for part in parts])
        return torch.nn.functional.pad(out_ND, (0, 0, 0, size - len(out_ND)))[:, None]

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sees_RK: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[n, R, heads, head_dim] from [n, R, heads, head_dim] and [n, K, kv_heads, head_dim]; causal if K is R."""
        out = torch.nn.functional.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=sees_RK,
            is_causal=sees_RK is None,
            scale=self.softmax_scale,
            enable_gqa=query.size(2) != key.size(2),
        )
        return out.transpose(1, 2)
