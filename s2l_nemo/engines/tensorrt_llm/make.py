"""Makes engines of TensorRT-LLM."""

from __future__ import annotations

from s2l_nemo.engines.settings import EngineSettings
from s2l_nemo.engines.tensorrt_llm.engine import TensorRTExplorer, TensorRTLearner
from s2l_nemo.models.open import Model


class TensorRTMaker:
    """See `kinds.EngineMaker`. An engine takes the first GPUs that it sees, and TensorRT-LLM reads the folder."""

    def explorer(self, settings: EngineSettings, model: Model) -> TensorRTExplorer:
        return TensorRTExplorer(settings)

    def learner(self, settings: EngineSettings, model: Model) -> TensorRTLearner:
        return TensorRTLearner(settings)


MAKER = TensorRTMaker()
