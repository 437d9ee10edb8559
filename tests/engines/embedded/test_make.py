"""Embedded engines of folders whose config.json is in the words of another version of transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers.models.qwen2 import modeling_qwen2

from s2l_nemo.engines.embedded.engine import EmbeddedLearnerEngine
from s2l_nemo.engines.embedded.make import MAKER
from s2l_nemo.engines.settings import EngineSettings
from s2l_nemo.models.open import open_model
from s2l_nemo.models.precision import Precision
from s2l_nemo.types import Source
from tests.distributed.conversion import to_nemo
from tests.distributed.models import write_variant


def engine_of(folder: Path) -> EmbeddedLearnerEngine:
    settings = EngineSettings(
        source=Source.LEARNER, key="model.path", path=str(folder), precision=Precision.fp32, device="cpu",
        max_batch_rows=8, max_sequence_length=256, tensor_parallel_size=1, memory_fraction=0.4,
    )  # fmt: skip
    return MAKER.learner(settings, open_model("model.path", str(folder)))


@torch.no_grad()
def logits(folder: Path) -> torch.Tensor:
    found: torch.Tensor = engine_of(folder)._model(torch.arange(200)[None]).logits
    return found


@pytest.mark.parametrize("name", ["llama3", "yarn", "qwen2"])
def test_positions_as_transformers_5_writes_them(tmp_path: Path, name: str) -> None:
    """transformers 4 reads `rope_theta` and `rope_scaling` only, and would take 10,000 and plain positions."""
    source = write_variant(tmp_path / "4", name)
    shutil.copytree(source, tmp_path / "5")
    config = json.loads((source / "config.json").read_text())
    scaling = config.pop("rope_scaling") or {"rope_type": "default"}
    config["rope_parameters"] = {**scaling, "rope_theta": config.pop("rope_theta")}
    (tmp_path / "5" / "config.json").write_text(json.dumps(config))
    assert torch.equal(logits(tmp_path / "5"), logits(source))


@pytest.mark.parametrize("form", [lambda folder: folder, lambda folder: to_nemo(folder, folder.parent / "m.nemo")])
def test_a_window_that_is_not_used_is_not_warned_of(
    tmp_path: Path, form: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Qwen2.5's config.json has `sliding_window` beside `use_sliding_window: false`."""
    warnings: list[str] = []
    monkeypatch.setattr(modeling_qwen2.logger, "warning_once", warnings.append)
    folder = form(write_variant(tmp_path / "qwen2", "qwen2", sliding_window=4096, use_sliding_window=False))
    del warnings[:]
    assert engine_of(folder)._model.config.model_type == "qwen2"
    assert warnings == []
