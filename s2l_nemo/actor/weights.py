"""Weights into and out of a sharded actor: Hugging Face tensors in, full Hugging Face tensors out, bucket by bucket."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from megatron.core import parallel_state
from safetensors import safe_open

from s2l_nemo.convert.names import EMBEDDING, Figures, shard, shard_shape, to_megatron
from s2l_nemo.convert.plan import Entry, buckets, entries, pack, unpack
from s2l_nemo.types import UserError

Parameters = Mapping[str, torch.nn.Parameter]


def parameter_of(entry: Entry, parameters: Parameters) -> torch.nn.Parameter:
    """This stage's parameter for an entry, by its Transformer Engine name or its local-layer name."""
    fused, local = entry.parameter_names()
    return parameters[fused] if fused in parameters else parameters[local]


@torch.no_grad()
def load_hugging_face(folder: Path, parameters: Parameters, figures: Figures) -> None:
    """Copies this rank's shard of every tensor of `folder` (safetensors) into `parameters`.

    Raises UserError for a missing tensor or a wrong shape, and AssertionError if a parameter was left unfilled.
    """
    tp_size = parallel_state.get_tensor_model_parallel_world_size()
    tp_rank = parallel_state.get_tensor_model_parallel_rank()
    pp_size = parallel_state.get_pipeline_model_parallel_world_size()
    stage = parallel_state.get_pipeline_model_parallel_rank()
    filled: set[int] = set()
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(path, "pt")) for path in sorted(folder.glob("*.safetensors"))]
        where = {name: file for file in files for name in list(file.keys())}

        def fill(entry: Entry, parameter: torch.nn.Parameter) -> None:
            missing = [name for name in entry.hf_names() if name not in where]
            if missing:
                raise UserError(f"{folder} has no tensor {missing[0]}; give a complete Hugging Face checkpoint")
            full = to_megatron(entry.rule, [where[name].get_tensor(name) for name in entry.hf_names()], figures)
            part = shard(entry.rule, full, tp_size, tp_rank)
            if part.shape != parameter.shape:
                raise UserError(
                    f"{folder}: {entry.hf_names()[0]} gives a shard of {tuple(part.shape)}, config.json asks for "
                    f"{tuple(parameter.shape)}; config.json and weights do not belong together"
                )
            parameter.copy_(part)
            filled.add(id(parameter))

        for entry in entries(figures, pp_size):
            if entry.stage == stage:
                fill(entry, parameter_of(entry, parameters))
        if figures.tied and pp_size > 1 and stage == pp_size - 1:
            # the tied embedding also lives on the last stage, as its output layer
            fill(Entry(EMBEDDING, stage, None, None), parameters["output_layer.weight"])
    unfilled = [name for name, parameter in parameters.items() if id(parameter) not in filled]
    assert not unfilled, f"parameters that no tensor of {folder} filled: {unfilled}"


@torch.no_grad()
def export_hugging_face(
    parameters: Parameters, figures: Figures, bucket_bytes: int, dtype: torch.dtype
) -> Iterator[dict[str, torch.Tensor]]:
    """Yields every tensor under its Hugging Face name, in full, on every rank, a bucket at a time.

    A bucket is one all-gather over the tensor-parallel ranks of the stage that owns it and one broadcast over the
    pipeline: no rank ever holds more than its shards and one bucket. All ranks must consume all buckets.
    """
    tp_size = parallel_state.get_tensor_model_parallel_world_size()
    tp_group = parallel_state.get_tensor_model_parallel_group()
    pp_size = parallel_state.get_pipeline_model_parallel_world_size()
    pp_group = parallel_state.get_pipeline_model_parallel_group()
    stage = parallel_state.get_pipeline_model_parallel_rank()
    device = next(iter(parameters.values())).device
    for bucket in buckets(entries(figures, pp_size), figures, dtype.itemsize, bucket_bytes):
        owner = bucket[0].stage
        count = sum(math.prod(shard_shape(entry.rule, figures, tp_size)) for entry in bucket)
        shards_RN = torch.empty(tp_size, count, dtype=dtype, device=device)
        if stage == owner:
            flat_N = pack([parameter_of(entry, parameters).detach().to(dtype) for entry in bucket])
            torch.distributed.all_gather_into_tensor(shards_RN.view(-1), flat_N, group=tp_group)
        if pp_size > 1:
            torch.distributed.broadcast(shards_RN, torch.distributed.get_global_rank(pp_group, owner), group=pp_group)
        yield unpack(bucket, shards_RN, figures)
