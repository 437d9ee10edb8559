"""Makes engines of vLLM."""

from __future__ import annotations

from s2l_nemo.engines.settings import EngineSettings
from s2l_nemo.engines.vllm.engine import VLLMExplorer, VLLMLearner
from s2l_nemo.errors import UserError
from s2l_nemo.models.open import Model


class VLLMMaker:
    """See `kinds.EngineMaker`. An engine takes the first GPUs that it sees, or the processor's cores."""

    def explorer(self, settings: EngineSettings, model: Model) -> VLLMExplorer:
        _check(settings, model)
        return VLLMExplorer(settings, model.shape.kv_elements_per_token)

    def learner(self, settings: EngineSettings, model: Model) -> VLLMLearner:
        _check(settings, model)
        return VLLMLearner(settings, model.shape.kv_elements_per_token)


MAKER = VLLMMaker()


def _check(settings: EngineSettings, model: Model) -> None:
    if model.shape.engine_family != model.shape.family:
        raise UserError(
            f"{settings.key}={settings.path} is of the family {model.shape.family}, whose weights come from the actor "
            f"under the names of {model.shape.engine_family}, which vLLM would not load: set engine.kind=server"
        )
