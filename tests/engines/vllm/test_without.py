"""What `engine.kind=vllm` says where it cannot run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from s2l_nemo.engines.build import EngineFactory, Servers
from s2l_nemo.engines.options import EngineConfig
from s2l_nemo.errors import UserError
from s2l_nemo.models.open import open_model
from s2l_nemo.models.precision import Precision
from tests.distributed.models import write_internlm2, write_qwen3


def start(path: Path, logs: Path) -> None:
    factory = EngineFactory(EngineConfig(kind="vllm"), Precision.fp32, torch.device("cpu"), 8, 64, Servers(0, logs))
    factory.learner(open_model("model.path", str(path)))


def test_an_interpreter_without_vllm(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        start(write_qwen3(tmp_path / "model", layers=2), tmp_path)
    assert f"engine.kind=vllm: {sys.executable} has no module vllm; set engine.python" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_family_whose_refits_have_other_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set engine\.kind=server"):
        start(write_internlm2(tmp_path / "model"), tmp_path)
