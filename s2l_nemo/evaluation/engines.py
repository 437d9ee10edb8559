"""The engines of one evaluation: in this process, or servers that share its problems."""

from __future__ import annotations

import os
import queue
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from omegaconf import OmegaConf

from s2l_nemo.engines.build import EngineFactory, Servers
from s2l_nemo.engines.kinds import ENGINES
from s2l_nemo.engines.options import EngineConfig
from s2l_nemo.engines.protocol import RolloutEngine
from s2l_nemo.files import TEMPORARY
from s2l_nemo.models.checkpoints.to_hugging_face import HuggingFaceExport, tensors_of
from s2l_nemo.models.formats.output import new_output
from s2l_nemo.models.open import Model, open_model
from s2l_nemo.models.precision import Precision

Work = TypeVar("Work")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Engines:
    """Engines of the same model. A piece of work is done by one of them, whichever is free first."""

    engines: Sequence[RolloutEngine]
    copy: Path | None = None  # of the model, in the format that they read

    def map(self, do: Callable[[RolloutEngine, Work], Result], work: Sequence[Work]) -> Iterator[Result]:
        """The results in the order of `work`. One engine does a piece as a whole, so who does it changes no sample."""
        if len(self.engines) == 1:
            yield from (do(self.engines[0], one) for one in work)
            return
        free: queue.SimpleQueue[RolloutEngine] = queue.SimpleQueue()
        for engine in self.engines:
            free.put(engine)

        def with_a_free_engine(one: Work) -> Result:
            engine = free.get()
            try:
                return do(engine, one)
            finally:
                free.put(engine)

        pool = ThreadPoolExecutor(len(self.engines))
        try:
            yield from pool.map(with_a_free_engine, work)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Ends all servers, and removes the copy."""
        for engine in self.engines:
            engine.close()
        if self.copy is not None:
            shutil.rmtree(self.copy, ignore_errors=True)


def start_engines(
    config: EngineConfig, model: Model, precision: Precision, device: str, *, rows: int, tokens: int, logs: Path
) -> Engines:
    """Frozen engines of the model, for `rows` sequences of `tokens` at once each.

    Servers start at the same time, `engine.replicas_per_node` of them; `logs` is the folder of their logs. Raises
    UserError if one cannot be made. No server is left then.
    """
    copy = None
    if ENGINES[config.kind].hugging_face_only and not model.is_hugging_face:
        logs.mkdir(parents=True, exist_ok=True)
        copy = logs / f"{TEMPORARY}model.{os.getpid()}"
        write_hugging_face(model, copy)
        model = open_model(model.key, str(copy))
    options = cast(EngineConfig, OmegaConf.to_object(cast(Any, config)))
    served = ENGINES[config.kind].served

    def start(replica: int) -> RolloutEngine:
        servers = Servers(replica, logs, replica) if served else None
        return EngineFactory(options, precision, torch.device(device), rows, tokens, servers).explorer(model)

    if not served:
        return Engines([start(0)], copy)
    with ThreadPoolExecutor(config.replicas_per_node) as pool:
        started = [pool.submit(start, replica) for replica in range(config.replicas_per_node)]
    failed = next((error for one in started if (error := one.exception()) is not None), None)
    engines = Engines([one.result() for one in started if one.exception() is None], copy)
    if failed is not None:
        engines.close()
        raise failed
    return engines


def write_hugging_face(model: Model, folder: Path) -> None:
    """The model as a Hugging Face folder, in the form that engines know."""
    checkpoint = model.checkpoint
    plan = HuggingFaceExport(
        checkpoint.shape,
        checkpoint.dtype,
        checkpoint.hf_files,
        engine_form=True,
        redundant_output=checkpoint.redundant_output,
    )
    with new_output(folder, plan.files, tar=False, force=True) as output:
        plan.write(output, tensors_of(checkpoint, plan.family))
