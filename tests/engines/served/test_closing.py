"""An engine that is closed while a call goes on in another thread, as when another engine of the run has failed."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from s2l_nemo.engines.options import EngineConfig
from s2l_nemo.engines.protocol import EngineDied
from s2l_nemo.engines.served.client import ServedEngine
from s2l_nemo.engines.served.process import Launch
from s2l_nemo.engines.settings import EngineSettings
from s2l_nemo.models.precision import Precision
from s2l_nemo.types import SampleRequest, SamplingParams, Source
from tests.engines.scripted import write_model


def test_a_closed_engine_is_not_started_again(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    settings = EngineSettings(Source.EXPLORER, "explorer.path", model, Precision.fp32, "cpu", 8, 64, 1, 0.4)
    maker, log = "tests.engines.scripted:SLOW", tmp_path / "log"
    engine = ServedEngine(Launch(maker, settings, sys.executable, None, log, startup_s=600.0), EngineConfig())
    forever = [SampleRequest(0, sample, (1,), seed=0) for sample in range(10_000)]  # a second each
    with ThreadPoolExecutor() as pool:
        call = pool.submit(engine.generate, forever, SamplingParams(4, ()))
        while engine._work is None or not engine._work.finished:
            time.sleep(0.01)
        engine.close()
        with pytest.raises(EngineDied):
            call.result(600)
    assert log.read_text().count("asked for") == 1
