"""Makes engines of TensorRT-LLM."""

from __future__ import annotations

import torch

from s2l_nemo.engines.settings import EngineSettings
from s2l_nemo.engines.tensorrt_llm.engine import TensorRTExplorer, TensorRTLearner
from s2l_nemo.engines.tensorrt_llm.transport import Cuda
from s2l_nemo.errors import UserError
from s2l_nemo.models.open import Model
from s2l_nemo.models.rope import YarnScaling


class TensorRTMaker:
    """See `kinds.EngineMaker`. An engine takes the first GPUs that it sees, and TensorRT-LLM reads the folder."""

    def explorer(self, settings: EngineSettings, model: Model) -> TensorRTExplorer:
        _check(settings, model)
        return TensorRTExplorer(settings)

    def learner(self, settings: EngineSettings, model: Model) -> TensorRTLearner:
        _check(settings, model)
        return TensorRTLearner(settings, Cuda() if torch.cuda.is_available() else None)


MAKER = TensorRTMaker()


def _check(settings: EngineSettings, model: Model) -> None:
    """Its sources look for YaRN's keys where they are not (`qk_norm_attention.py`), and go on with plain positions."""
    if isinstance(model.shape.rope_scaling, YarnScaling):
        raise UserError(
            f"{settings.key}={settings.path} has YaRN positions, which TensorRT-LLM 1.2 may leave out without a word: "
            "set engine.kind=vllm or server"
        )
