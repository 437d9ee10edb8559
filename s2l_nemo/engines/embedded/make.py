"""Embedded engines of models of every format: Hugging Face folders, NeMo folders, `.nemo` files."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch

from s2l_nemo.engines.embedded.engine import EmbeddedEngine, EmbeddedLearnerEngine
from s2l_nemo.engines.settings import EngineSettings
from s2l_nemo.models.checkpoints.open import open_checkpoint
from s2l_nemo.models.checkpoints.tensors import named_tensors
from s2l_nemo.models.files import hf_files_folder, read_config_json
from s2l_nemo.models.hf_config import llama_config

Engine = TypeVar("Engine", bound=EmbeddedEngine)


class EmbeddedMaker:
    """See `kinds.EngineMaker`."""

    def explorer(self, settings: EngineSettings) -> EmbeddedEngine:
        return _make(EmbeddedEngine, settings)

    def learner(self, settings: EngineSettings) -> EmbeddedLearnerEngine:
        return _make(EmbeddedLearnerEngine, settings)


MAKER = EmbeddedMaker()


def _make(engine: type[Engine], settings: EngineSettings) -> Engine:
    """Has transformers load a Hugging Face folder, and fills any other model tensor by tensor.

    InternLM2.5 is filled, too: its own class would be remote code. Raises UserError if there is no model, or if it
    cannot be read.
    """
    key, path = settings.key, settings.path
    source, device, dtype = settings.source, torch.device(settings.device), settings.dtype
    rows = settings.max_batch_rows
    config = read_config_json(key, path)
    if hf_files_folder(key, path) == Path(path) and config["model_type"] != "internlm2":
        return engine.from_pretrained(path, source=source, device=device, dtype=dtype, max_batch_rows=rows)
    checkpoint = open_checkpoint(Path(path))
    shape = checkpoint.shape
    if shape.engine_family != shape.family:
        config = llama_config(config, shape)
    tensors = named_tensors(checkpoint, shape.engine_family)
    return engine.from_weights(config, tensors, source=source, device=device, dtype=dtype, max_batch_rows=rows)
