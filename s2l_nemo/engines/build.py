"""Rollout engines for models of every format: Hugging Face folders, NeMo folders, `.nemo` files."""

from __future__ import annotations

from typing import TypeVar

import torch

from s2l_nemo.config.schema import Precision
from s2l_nemo.engines.embedded.engine import EmbeddedEngine
from s2l_nemo.models.checkpoints.tensors import named_tensors
from s2l_nemo.models.hf_config import engine_config
from s2l_nemo.models.open import Model
from s2l_nemo.types import Source

DTYPES = {Precision.fp32: torch.float32, Precision.bf16: torch.bfloat16}

Engine = TypeVar("Engine", bound=EmbeddedEngine)


def make_engine(
    engine: type[Engine],
    model: Model,
    *,
    source: Source,
    device: torch.device,
    precision: Precision,
    max_batch_rows: int,
) -> Engine:
    """The engine of a model.

    A Hugging Face folder is loaded by transformers. A NeMo checkpoint is filled tensor by tensor, and so is a model
    whose own class would be remote code. Raises UserError if the weights cannot be read.
    """
    dtype, shape = DTYPES[precision], model.shape
    if model.is_hugging_face and shape.engine_family == shape.family:
        return engine.from_pretrained(
            model.path, source=source, device=device, dtype=dtype, max_batch_rows=max_batch_rows
        )
    tensors = named_tensors(model.checkpoint, shape.engine_family)
    return engine.from_weights(
        engine_config(model.config, shape), tensors, source=source, device=device, dtype=dtype,
        max_batch_rows=max_batch_rows,
    )  # fmt: skip
