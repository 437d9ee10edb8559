"""Engines of the real vLLM in server processes; `make test-vllm` says where its interpreter is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from s2l_nemo.engines.build import EngineFactory, Servers
from s2l_nemo.engines.options import EngineConfig
from s2l_nemo.models.precision import Precision

VARIABLE = "VLLM_PYTHON"
PYTHON = os.environ.get(VARIABLE)
needs_vllm = pytest.mark.skipif(PYTHON is None, reason=f"{VARIABLE} names no interpreter with vllm: make test-vllm")


def factory(
    folder: Path, *, kind: str = "vllm", tensor_parallel_size: int = 1, request_s: float = 300
) -> EngineFactory:
    """Of engines with 64 rows of 64 tokens, in fp32, on a CPU. Their logs go to `folder`."""
    config = EngineConfig(
        kind=kind,
        python=PYTHON if kind == "vllm" else None,
        tensor_parallel_size=tensor_parallel_size,
        request_s=request_s,
        memory_fraction=0.1,
    )
    return EngineFactory(config, Precision.fp32, torch.device("cpu"), 64, 64, Servers(0, folder / "logs"))
