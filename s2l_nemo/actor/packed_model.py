"""Megatron's GPTModel on packed rows: positions that restart, and log-probs of the targets instead of logits."""

from __future__ import annotations

from typing import cast

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region

from s2l_nemo.actor import vocab_parallel
from s2l_nemo.algorithm.packing import PackedRows


class PackedGPTModel(GPTModel):  # type: ignore[misc]  # Megatron has no types
    """One pipeline stage. Its attention is `TorchAttention`, which takes the packed rows in place of a bias."""

    def forward(self, rows: PackedRows, temperature: float, entropy_gradient: bool) -> torch.Tensor:
        """Hidden states [N, 1, H]. On the last stage [2, M]: log-probs of the targets, and entropy in nats.

        The entropy has a gradient only if `entropy_gradient`.
        """
        embedded = self.embedding(input_ids=rows.tokens_1N, position_ids=rows.position_1N) if self.pre_process else None
        hidden_N1H = self.decoder(
            hidden_states=embedded,
            attention_mask=None,
            attention_bias=rows,
            rotary_pos_emb=self.rotary_pos_emb(self.max_sequence_length)[rows.position_1N[0]],
        )
        if not self.post_process:
            return cast(torch.Tensor, hidden_N1H)
        if self.config.sequence_parallel:  # each rank's part of the vocabulary gives a part of the gradient
            hidden_N1H = gather_from_sequence_parallel_region(hidden_N1H, tensor_parallel_output_grad=True)
        tied = self.share_embeddings_and_output_weights
        weight_VH = self.shared_embedding_or_output_weight() if tied else self.output_layer.weight
        hidden_MH = hidden_N1H[:, 0].index_select(0, rows.source_M)
        return vocab_parallel.target_logprobs(
            hidden_MH, weight_VH, rows.target_M, temperature, entropy_gradient=entropy_gradient
        )
