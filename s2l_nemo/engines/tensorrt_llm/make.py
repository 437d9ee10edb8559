"""Makes engines of TensorRT-LLM."""

from __future__ import annotations

import os
from collections.abc import Mapping

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
        return TensorRTLearner(settings, refit_gpus(os.environ, torch.cuda.is_available()))


MAKER = TensorRTMaker()
BY_FILE = "S2L_TENSORRT_LLM_REFIT"


def refit_gpus(environ: Mapping[str, str], has_cuda: bool) -> Cuda | None:
    """The GPUs whose handles a refit sends, None for a file in shared memory.

    S2L_TENSORRT_LLM_REFIT=file takes the file where there is CUDA, too. Raises UserError for any other value.
    """
    way = environ.get(BY_FILE)
    if way not in (None, "file"):
        raise UserError(f"{BY_FILE}={way}: the value is file; without it a refit goes by CUDA handles")
    return Cuda() if has_cuda and way is None else None


def _check(settings: EngineSettings, model: Model) -> None:
    """Its sources look for YaRN's keys where they are not (`qk_norm_attention.py`), and go on with plain positions."""
    if isinstance(model.shape.rope_scaling, YarnScaling):
        raise UserError(
            f"{settings.key}={settings.path} has YaRN positions, which TensorRT-LLM 1.2 may leave out without a word: "
            "set engine.kind=vllm or server"
        )
