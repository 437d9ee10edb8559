from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from s2l_nemo.engines.settings import EngineSettings
from s2l_nemo.models.precision import Precision
from s2l_nemo.types import Source

SETTINGS = EngineSettings(
    source=Source.LEARNER,
    key="model.path",
    path="models/tiny/learner",
    precision=Precision.bf16,
    device="cuda:1",
    max_batch_rows=8,
    max_sequence_length=64,
    tensor_parallel_size=2,
    memory_fraction=0.4,
)
VALUES = {
    "source": "LEARNER",
    "key": "model.path",
    "path": "models/tiny/learner",
    "precision": "bf16",
    "device": "cuda:1",
    "max_batch_rows": 8,
    "max_sequence_length": 64,
    "tensor_parallel_size": 2,
    "memory_fraction": 0.4,
}


def test_settings_come_over_as_json() -> None:
    assert SETTINGS.to_json() == VALUES
    assert EngineSettings.from_json(json.loads(json.dumps(VALUES))) == SETTINGS


@pytest.mark.parametrize(
    ("values", "fields"),
    [
        (VALUES | {"speed": 1}, "speed"),
        ({name: value for name, value in VALUES.items() if name not in ("key", "device")}, "device, key"),
        ({}, ", ".join(sorted(VALUES))),
    ],
)
def test_missing_and_unknown_fields_are_refused(values: dict[str, Any], fields: str) -> None:
    with pytest.raises(ValueError, match=f"missing or unknown fields: {fields}$"):
        EngineSettings.from_json(values)


def test_the_name_says_which_engine() -> None:
    assert SETTINGS.name == "the learner engine (model.path=models/tiny/learner)"


@pytest.mark.parametrize(("precision", "dtype"), [(Precision.fp32, torch.float32), (Precision.bf16, torch.bfloat16)])
def test_number_types(precision: Precision, dtype: torch.dtype) -> None:
    settings = EngineSettings.from_json(VALUES | {"precision": precision.value})
    assert settings.dtype == dtype
    assert precision.element_bytes == dtype.itemsize
