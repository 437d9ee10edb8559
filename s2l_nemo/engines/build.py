"""The one factory of engines: of any kind, in this process or in server processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from s2l_nemo.engines.absent import AbsentEngine, AbsentLearnerEngine
from s2l_nemo.engines.gpus import devices_of, visible_gpus
from s2l_nemo.engines.kinds import ENGINES
from s2l_nemo.engines.options import EngineConfig
from s2l_nemo.engines.protocol import LearnerEngine, RolloutEngine
from s2l_nemo.engines.served.client import ServedEngine, ServedLearnerEngine
from s2l_nemo.engines.served.process import Launch
from s2l_nemo.engines.settings import EngineSettings
from s2l_nemo.models.open import Model
from s2l_nemo.models.precision import Precision
from s2l_nemo.types import Source


@dataclass(frozen=True)
class Servers:
    """The servers that one rank starts and speaks to."""

    replica: int  # their number on the node
    logs: Path  # the folder of their logs
    rank: int = 0  # names the logs


@dataclass(frozen=True)
class EngineFactory:
    """Makes engines of the kind that `config` names. All have the same limits.

    A kind in this process is made on `device`. A served kind is started as a server; a rank without `servers` gets
    engines that stand for those of other ranks. Both methods raise UserError if the model cannot be loaded, or if there
    are too few GPUs for the servers.
    """

    config: EngineConfig
    precision: Precision
    device: torch.device
    max_batch_rows: int
    max_sequence_length: int
    servers: Servers | None = None

    def explorer(self, model: Model, number: int = 1) -> RolloutEngine:
        """A frozen engine of the model. `number` tells its log from those of others."""
        kind, settings = ENGINES[self.config.kind], self._settings(Source.EXPLORER, model)
        if not kind.served:
            return kind.load().explorer(settings, model)
        if self.servers is None:
            return AbsentEngine()
        return ServedEngine(self._launch(settings, self.servers, number), self.config)

    def learner(self, model: Model) -> LearnerEngine:
        """The same with weights that can be replaced."""
        kind, settings = ENGINES[self.config.kind], self._settings(Source.LEARNER, model)
        if not kind.served:
            return kind.load().learner(settings, model)
        if self.servers is None:
            return AbsentLearnerEngine()
        return ServedLearnerEngine(self._launch(settings, self.servers), self.config)

    def _settings(self, source: Source, model: Model) -> EngineSettings:
        model.fetch()  # unless the ranks' parent has: engines read its folder
        # a server uses the first of the GPUs that it sees
        device = self.device.type if ENGINES[self.config.kind].served else str(self.device)
        return EngineSettings(
            source=source,
            key=model.key,
            path=model.path,
            precision=self.precision,
            device=device,
            max_batch_rows=self.max_batch_rows,
            max_sequence_length=self.max_sequence_length,
            tensor_parallel_size=self.config.tensor_parallel_size,
            memory_fraction=self.config.memory_fraction,
        )

    def _launch(self, settings: EngineSettings, servers: Servers, number: int = 1) -> Launch:
        maker = ENGINES[self.config.kind].maker
        assert isinstance(maker, str)  # EngineKind
        visible = visible_gpus(os.environ, torch.cuda.device_count()) if self.device.type == "cuda" else []
        return Launch(
            maker=maker,
            settings=settings,
            python=self.config.python or sys.executable,
            devices=devices_of(self.config, settings.source, servers.replica, visible),
            log=servers.logs / f"{settings.source.name.lower()}{number if number > 1 else ''}_rank{servers.rank}.log",
            startup_s=self.config.startup_s,
        )


def make_engines(
    factory: EngineFactory, *, explorers: Sequence[Model], learner: Model
) -> tuple[list[RolloutEngine], LearnerEngine]:
    """The engines of frozen explorers, and the learner's. Explorers with the same path have the same engine.

    Raises UserError if a model cannot be loaded. No server is left then.
    """
    frozen: dict[str, RolloutEngine] = {}
    try:
        for explorer in explorers:
            if explorer.path not in frozen:
                frozen[explorer.path] = factory.explorer(explorer, number=len(frozen) + 1)
        return [frozen[explorer.path] for explorer in explorers], factory.learner(learner)
    except BaseException:
        for engine in frozen.values():
            engine.close()
        raise
