"""Engines without a model: each answers a request with its prompt backwards."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from s2l_nemo.engines.protocol import Bucket, LocalEngine, RefitStats
from s2l_nemo.engines.settings import EngineSettings
from s2l_nemo.errors import UserError
from s2l_nemo.models.formats.dtypes import FLOAT32
from s2l_nemo.models.hf_config import config_of_shape
from s2l_nemo.models.open import Model
from s2l_nemo.types import Completion, SampleRequest, SamplingParams
from tests.arrays import ids, lps
from tests.models.shapes import small_shape


class ScriptedEngine(LocalEngine):
    """Remembers the settings that it was made with, and whether it is closed."""

    weight_version = 0

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.closed = False

    def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Completion]:
        return [
            Completion(
                prompt_id=request.prompt_id,
                sample_id=request.sample_id,
                source=self.settings.source,
                token_ids=ids(request.prompt_token_ids[::-1][: params.max_new_tokens]),
                logprobs=lps([-0.5] * min(len(request.prompt_token_ids), params.max_new_tokens)),
                finish_reason="length",
                weight_version=self.weight_version,
            )
            for request in requests
        ]

    def weight_hash(self) -> str:
        return self.settings.path

    def close(self) -> None:
        self.closed = True


class ScriptedLearnerEngine(ScriptedEngine):
    """Remembers the names of the weights that it was given."""

    last_refit: RefitStats | None = None

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        self.names: list[str] = []

    def update_weights(self, buckets: Iterable[Bucket], version: int) -> None:
        self.names = [name for bucket in buckets for name in bucket]
        self.weight_version = version


def write_model(folder: Path) -> str:
    """A model without weights, which is all that scripted engines need. Returns its path."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config_of_shape(small_shape(max_positions=64), FLOAT32)))
    return str(folder)


class SlowEngine(ScriptedEngine):
    """Takes a second for each completion. Its log counts the requests of each call."""

    def stream(self, requests: Sequence[SampleRequest], params: SamplingParams) -> Iterator[tuple[int, Completion]]:
        print(f"asked for {len(requests)}", flush=True)
        for index, request in enumerate(requests):
            time.sleep(1.0)
            yield index, self.generate([request], params)[0]


class SlowLearnerEngine(SlowEngine, ScriptedLearnerEngine):
    """The same with weights."""


class SlowMaker:
    """Makes slow engines."""

    def explorer(self, settings: EngineSettings, _model: Model) -> SlowEngine:
        return SlowEngine(settings)

    def learner(self, settings: EngineSettings, _model: Model) -> SlowLearnerEngine:
        return SlowLearnerEngine(settings)


class ScriptedMaker:
    """Makes scripted engines. There is no model at the path "nowhere"."""

    def __init__(self) -> None:
        self.made: list[ScriptedEngine] = []

    def explorer(self, settings: EngineSettings, _model: Model) -> ScriptedEngine:
        return self._made(ScriptedEngine(settings))

    def learner(self, settings: EngineSettings, _model: Model) -> ScriptedLearnerEngine:
        engine = ScriptedLearnerEngine(settings)
        self._made(engine)
        return engine

    def _made(self, engine: ScriptedEngine) -> ScriptedEngine:
        if engine.settings.path == "nowhere":
            raise UserError(f"{engine.settings.key}=nowhere: there is no model")
        self.made.append(engine)
        return engine


MAKER = ScriptedMaker()
SLOW = SlowMaker()
