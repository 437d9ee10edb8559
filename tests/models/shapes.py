"""Small figures for tests."""

from __future__ import annotations

from typing import Any

from s2l_nemo.models.shape import ModelShape


def small_shape(**figures: Any) -> ModelShape:
    defaults: dict[str, Any] = {
        "family": "qwen3", "vocab": 2, "hidden": 1, "layers": 1, "heads": 2, "kv_heads": 2, "head_dim": 1, "ffn": 1,
        "max_positions": 8, "tied": True, "rope_theta": 1e4, "rms_norm_eps": 1e-6,
    }  # fmt: skip
    return ModelShape(**{**defaults, **figures})
