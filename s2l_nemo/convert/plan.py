"""Which tensor lives where: the plan by which a running actor's shards become full Hugging Face tensors."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from s2l_nemo.convert.names import (
    EMBEDDING,
    FINAL_NORM,
    LAYER_RULES,
    OUTPUT,
    Figures,
    Rule,
    layer_hf_names,
    shard_shape,
    to_hugging_face,
    unshard,
)


@dataclass(frozen=True)
class Entry:
    """One Megatron tensor: its rule, the pipeline stage that holds it and its name in that stage's local layers."""

    rule: Rule
    stage: int
    layer: int | None  # global layer, None outside the layers
    local_layer: int | None

    def hf_names(self) -> tuple[str, ...]:
        return self.rule.hf if self.layer is None else layer_hf_names(self.rule, self.layer)

    def parameter_names(self) -> tuple[str, str]:
        """Name with Transformer Engine layers and name with local layers, without NeMo's `model.` prefix."""
        prefix = "" if self.local_layer is None else f"decoder.layers.{self.local_layer}."
        return prefix + self.rule.megatron, prefix + self.rule.local_name()


def figures_from_hf(folder: Path) -> Figures:
    """Reads every figure from config.json; none has a default here but `tie_word_embeddings` (False, as upstream)."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return Figures(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        ffn=config["intermediate_size"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        vocab=config["vocab_size"],
        tied=config.get("tie_word_embeddings", False),
    )


def entries(figures: Figures, pp_size: int) -> list[Entry]:
    """All tensors of a model in layer order. A tied output layer is not listed: it is the embedding."""
    per_stage = figures.layers // pp_size
    plan = [Entry(EMBEDDING, 0, None, None)]
    for layer in range(figures.layers):
        stage, local = divmod(layer, per_stage)
        plan += [Entry(rule, stage, layer, local) for rule in LAYER_RULES]
    plan.append(Entry(FINAL_NORM, pp_size - 1, None, None))
    if not figures.tied:
        plan.append(Entry(OUTPUT, pp_size - 1, None, None))
    return plan


def buckets(plan: list[Entry], figures: Figures, element_bytes: int, bucket_bytes: int) -> Iterator[list[Entry]]:
    """Consecutive entries of one stage whose full tensors fit in `bucket_bytes`; a larger tensor stands alone."""
    bucket: list[Entry] = []
    size = 0
    for entry in plan:
        entry_bytes = math.prod(shard_shape(entry.rule, figures, 1)) * element_bytes
        if bucket and (entry.stage != bucket[0].stage or size + entry_bytes > bucket_bytes):
            yield bucket
            bucket, size = [], 0
        bucket.append(entry)
        size += entry_bytes
    if bucket:
        yield bucket


def pack(tensors: list[torch.Tensor]) -> torch.Tensor:
    """One flat buffer of a bucket's shards, so that a bucket costs one collective."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def unpack(bucket: list[Entry], flats_by_rank: torch.Tensor, figures: Figures) -> dict[str, torch.Tensor]:
    """Full Hugging Face tensors of a bucket from the packed shards `[TP, N]` of all tensor-parallel ranks."""
    tp_size = flats_by_rank.size(0)
    named: dict[str, torch.Tensor] = {}
    offset = 0
    for entry in bucket:
        shape = shard_shape(entry.rule, figures, tp_size)
        count = math.prod(shape)
        shards = [flats_by_rank[rank, offset : offset + count].view(shape) for rank in range(tp_size)]
        offset += count
        parts = to_hugging_face(entry.rule, unshard(entry.rule, shards), figures)
        named.update(zip(entry.hf_names(), parts, strict=True))
    return named
