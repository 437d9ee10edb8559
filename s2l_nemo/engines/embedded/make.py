"""Embedded engines of models of every format: Hugging Face folders, NeMo folders, `.nemo` files."""

from __future__ import annotations

from typing import TypeVar

import torch

from s2l_nemo.engines.embedded.engine import EmbeddedEngine, EmbeddedLearnerEngine
from s2l_nemo.engines.settings import EngineSettings
from s2l_nemo.models.checkpoints.tensors import named_tensors
from s2l_nemo.models.hf_config import engine_config
from s2l_nemo.models.open import Model

Engine = TypeVar("Engine", bound=EmbeddedEngine)


class EmbeddedMaker:
    """See `kinds.EngineMaker`."""

    def explorer(self, settings: EngineSettings, model: Model) -> EmbeddedEngine:
        return _make(EmbeddedEngine, settings, model)

    def learner(self, settings: EngineSettings, model: Model) -> EmbeddedLearnerEngine:
        return _make(EmbeddedLearnerEngine, settings, model)


MAKER = EmbeddedMaker()


def _make(engine: type[Engine], settings: EngineSettings, model: Model) -> Engine:
    """Has transformers load a Hugging Face folder, and fills any other model tensor by tensor.

    So is one filled whose config.json transformers would not read as it is meant: its own class would be remote code,
    or the file is of another version. Raises UserError if the weights cannot be read.
    """
    source, device, dtype = settings.source, torch.device(settings.device), settings.dtype
    rows, shape = settings.max_batch_rows, model.shape
    config = engine_config(model.config, shape)
    if model.is_hugging_face and config == model.config:
        return engine.from_pretrained(model.path, source=source, device=device, dtype=dtype, max_batch_rows=rows)
    tensors = named_tensors(model.checkpoint, shape.engine_family)
    return engine.from_weights(config, tensors, source=source, device=device, dtype=dtype, max_batch_rows=rows)
