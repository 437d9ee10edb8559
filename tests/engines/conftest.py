from __future__ import annotations

from typing import Any

import pytest

from tests.engines.random_qwen3 import build_model


@pytest.fixture
def model() -> Any:
    return build_model()
