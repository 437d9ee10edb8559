"""Makes engines of TensorRT-LLM."""

from __future__ import annotations

from s2l_nemo.engines.settings import EngineSettings
from s2l_nemo.engines.tensorrt_llm.engine import TensorRTExplorer, TensorRTLearner


class TensorRTMaker:
    """See `kinds.EngineMaker`. `settings.device` is not used: an engine takes the first GPUs that it sees."""

    def explorer(self, settings: EngineSettings) -> TensorRTExplorer:
        return TensorRTExplorer(settings)

    def learner(self, settings: EngineSettings) -> TensorRTLearner:
        return TensorRTLearner(settings)


MAKER = TensorRTMaker()
