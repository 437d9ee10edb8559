"""Rollout engines for models of every format: Hugging Face folders, NeMo folders, `.nemo` files."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch

from s2l_nemo.config.schema import Precision
from s2l_nemo.engines.embedded.engine import EmbeddedEngine
from s2l_nemo.models.checkpoints.open import open_checkpoint
from s2l_nemo.models.checkpoints.tensors import named_tensors
from s2l_nemo.models.files import hf_files_folder, read_config_json
from s2l_nemo.models.hf_config import llama_config
from s2l_nemo.types import Source

DTYPES = {Precision.fp32: torch.float32, Precision.bf16: torch.bfloat16}

Engine = TypeVar("Engine", bound=EmbeddedEngine)


def make_engine(
    engine: type[Engine],
    key: str,
    path: str,
    *,
    source: Source,
    device: torch.device,
    precision: Precision,
    max_batch_rows: int,
) -> Engine:
    """The engine of the model at `path`, which the configuration key `key` names.

    A Hugging Face folder is loaded by transformers; a NeMo checkpoint, and an InternLM2.5, whose own class would be
    remote code, are filled tensor by tensor. Raises UserError where there is no model, or it cannot be read.
    """
    dtype = DTYPES[precision]
    config = read_config_json(key, path)
    if hf_files_folder(key, path) == Path(path) and config["model_type"] != "internlm2":
        return engine.from_pretrained(path, source=source, device=device, dtype=dtype, max_batch_rows=max_batch_rows)
    checkpoint = open_checkpoint(Path(path))
    shape = checkpoint.shape
    if shape.engine_family != shape.family:
        config = llama_config(config, shape)
    tensors = named_tensors(checkpoint, shape.engine_family)
    return engine.from_weights(
        config, tensors, source=source, device=device, dtype=dtype, max_batch_rows=max_batch_rows
    )
