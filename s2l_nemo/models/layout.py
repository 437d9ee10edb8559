"""All tensors of a model in order, with their names and the pipeline stage that holds each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from s2l_nemo.models.families import FAMILIES
from s2l_nemo.models.names import Rule
from s2l_nemo.models.shape import ModelShape, full_shape


@dataclass(frozen=True)
class Entry:
    """One tensor of a model."""

    rule: Rule
    hf_prefix: str
    stage: int  # of the pipeline
    layer: int | None  # counted over all stages; None: it is in no layer
    local_layer: int | None  # counted within the stage

    @property
    def tensor(self) -> tuple[str, int | None]:
        """Megatron's name and the layer: they identify the tensor under all Hugging Face names."""
        return self.rule.megatron, self.layer

    @property
    def is_bias(self) -> bool:
        """Whether it is the bias of the entry before it."""
        return self.rule.megatron.endswith(".bias")

    def hf_names(self) -> tuple[str, ...]:
        return tuple(self.hf_prefix + name for name in self.rule.hf)

    def parameter_names(self) -> tuple[str, str]:
        """Its names in a stage of Transformer Engine layers and of local layers, without NeMo's `model.` prefix."""
        prefix = "" if self.local_layer is None else f"decoder.layers.{self.local_layer}."
        return prefix + self.rule.megatron, prefix + self.rule.local_name()


def entries(shape: ModelShape, pp_size: int = 1, family: str | None = None) -> list[Entry]:
    """All tensors of a model in layer order. A tied output layer is not listed: it is the embedding.

    `family` gives the Hugging Face names; None: the model's own. An InternLM2.5 may have Llama's.
    """
    table = FAMILIES[family or shape.family].table
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
    """Yields consecutive entries of one stage whose full tensors fit in `bucket_bytes`. A larger one comes alone.

    A bias comes with its weight, as an engine that fuses q, k and v loads them together.
    """
    bucket: list[Entry] = []
    size = 0
    for index, entry in enumerate(plan):
        own = math.prod(full_shape(entry.rule, shape)) * element_bytes
        needed = own + _bias_elements(plan[index + 1 : index + 2], shape) * element_bytes
        if bucket and not entry.is_bias and (entry.stage != bucket[0].stage or size + needed > bucket_bytes):
            yield bucket
            bucket, size = [], 0
        bucket.append(entry)
        size += own
    if bucket:
        yield bucket


def _bias_elements(following: list[Entry], shape: ModelShape) -> int:
    """Elements of the entries that are biases."""
    return sum(math.prod(full_shape(entry.rule, shape)) for entry in following if entry.is_bias)
