"""Weights of a sharded actor: filled from a checkpoint of any format, exported as full Hugging Face tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from megatron.core import parallel_state

from s2l_nemo.models.checkpoints.checkpoint import Checkpoint
from s2l_nemo.models.checkpoints.tensors import tensor_of
from s2l_nemo.models.layout import Entry, buckets, entries
from s2l_nemo.models.shape import ModelShape, full_shape
from s2l_nemo.models.shards import pack, shard, shard_rows, shard_shape, unpack

Parameters = Mapping[str, torch.nn.Parameter]


def parameter_of(entry: Entry, parameters: Parameters) -> torch.nn.Parameter:
    """This stage's parameter for an entry, by its Transformer Engine name or its local-layer name."""
    fused, local = entry.parameter_names()
    return parameters[fused] if fused in parameters else parameters[local]


@torch.no_grad()
def load_weights(checkpoint: Checkpoint, parameters: Parameters) -> None:
    """Copies this rank's shard of every tensor into `parameters`.

    Of a tensor that is cut along its rows, only this rank's rows are read. Raises AssertionError if a parameter was
    left unfilled.
    """
    shape = checkpoint.shape
    tp_size = parallel_state.get_tensor_model_parallel_world_size()
    tp_rank = parallel_state.get_tensor_model_parallel_rank()
    pp_size = parallel_state.get_pipeline_model_parallel_world_size()
    stage = parallel_state.get_pipeline_model_parallel_rank()
    filled: set[int] = set()

    def fill(entry: Entry, parameter: torch.nn.Parameter) -> None:
        rule, rows = entry.rule, checkpoint.rows(entry)
        sizes = shard_shape(rule, shape, tp_size)
        assert parameter.shape == sizes, f"{rule.megatron}: the model has {parameter.shape}, {sizes} was planned"
        if rule.tp_dim == 1:  # columns are spread over the whole tensor
            parameter.copy_(shard(rule, tensor_of(rows, checkpoint.dtype, full_shape(rule, shape)), tp_size, tp_rank))
        else:
            parameter.copy_(tensor_of(shard_rows(rule, rows, tp_size, tp_rank), checkpoint.dtype, sizes))
        filled.add(id(parameter))

    for entry in entries(shape, pp_size):
        if entry.stage == stage:
            fill(entry, parameter_of(entry, parameters))
    if shape.tied and pp_size > 1 and stage == pp_size - 1:
        # the tied embedding also lives on the last stage, as its output layer
        fill(entries(shape, pp_size)[0], parameters["output_layer.weight"])
    unfilled = [name for name, parameter in parameters.items() if id(parameter) not in filled]
    assert not unfilled, f"parameters that no tensor of {checkpoint.path} filled: {unfilled}"


@torch.no_grad()
def export_hugging_face(
    parameters: Parameters, shape: ModelShape, family: str, bucket_bytes: int, dtype: torch.dtype
) -> Iterator[dict[str, torch.Tensor]]:
    """Yields every full tensor under its Hugging Face name in `family`, on every rank, a bucket at a time. Collective.

    A bucket costs one all-gather over the tensor-parallel ranks of the stage that owns it, and one broadcast over the
    pipeline. No rank ever holds more than its shards and one bucket. All ranks must consume all buckets.
    """
    tp_size = parallel_state.get_tensor_model_parallel_world_size()
    tp_group = parallel_state.get_tensor_model_parallel_group()
    pp_size = parallel_state.get_pipeline_model_parallel_world_size()
    pp_group = parallel_state.get_pipeline_model_parallel_group()
    stage = parallel_state.get_pipeline_model_parallel_rank()
    device = next(iter(parameters.values())).device
    for bucket in buckets(entries(shape, pp_size, family), shape, dtype.itemsize, bucket_bytes):
        owner = bucket[0].stage
        count = sum(math.prod(shard_shape(entry.rule, shape, tp_size)) for entry in bucket)
        shards_RN = torch.empty(tp_size, count, dtype=dtype, device=device)
        if stage == owner:
            flat_N = pack([parameter_of(entry, parameters).detach().to(dtype) for entry in bucket])
            torch.distributed.all_gather_into_tensor(shards_RN.view(-1), flat_N, group=tp_group)
        if pp_size > 1:
            torch.distributed.broadcast(shards_RN, torch.distributed.get_global_rank(pp_group, owner), group=pp_group)
        yield unpack(bucket, shards_RN, shape)
