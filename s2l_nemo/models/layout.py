"""Which tensor lives where: all tensors of a model in order, with their names and their pipeline stages."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from s2l_nemo.models.shape import Family, ModelShape
from s2l_nemo.models.names import TABLES, Rule, full_shape


@dataclass(frozen=True)
class Entry:
    """One Megatron tensor: its rule, the pipeline stage that holds it and its layer there."""

    rule: Rule
    hf_prefix: str
    stage: int
    layer: int | None  # global layer, None outside the layers
    local_layer: int | None

    @property
    def tensor(self) -> tuple[str, int | None]:
        """What identifies the tensor whatever names it has elsewhere: Megatron's name and the global layer."""
        return self.rule.megatron, self.layer

    def hf_names(self) -> tuple[str, ...]:
        return tuple(self.hf_prefix + name for name in self.rule.hf)

    def parameter_names(self) -> tuple[str, str]:
        """Name with Transformer Engine layers and name with local layers, without NeMo's `model.` prefix."""
        prefix = "" if self.local_layer is None else f"decoder.layers.{self.local_layer}."
        return prefix + self.rule.megatron, prefix + self.rule.local_name()


def entries(shape: ModelShape, pp_size: int = 1, family: Family | None = None) -> list[Entry]:
    """All tensors of a model in layer order. A tied output layer is not listed: it is the embedding.

    `family` gives Hugging Face names other than the model's own: an InternLM2.5 under Llama's.
    """
    table = TABLES[family or shape.family]
    per_stage = shape.layers // pp_size
    plan = [Entry(table.embedding, "", 0, None, None)]
    for layer in range(shape.layers):
        stage, local = divmod(layer, per_stage)
        plan += [Entry(rule, table.hf_layer.format(n=layer), stage, layer, local) for rule in table.layer]
    plan.append(Entry(table.final_norm, "", pp_size - 1, None, None))
    if not shape.tied:
        plan.append(Entry(table.output, "", pp_size - 1, None, None))
    return plan


def buckets(plan: list[Entry], shape: ModelShape, element_bytes: int, bucket_bytes: int) -> Iterator[list[Entry]]:
    """Consecutive entries of one stage whose full tensors fit in `bucket_bytes`; a larger tensor stands alone."""
    bucket: list[Entry] = []
    size = 0
    for entry in plan:
        entry_bytes = math.prod(full_shape(entry.rule, shape)) * element_bytes
        if bucket and (entry.stage != bucket[0].stage or size + entry_bytes > bucket_bytes):
            yield bucket
            bucket, size = [], 0
        bucket.append(entry)
        size += entry_bytes
    if bucket:
        yield bucket
