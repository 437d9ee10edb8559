"""A tiny random Qwen3: head_dim differs from hidden / heads, and two query heads share a KV head."""

from __future__ import annotations

from typing import Any

import torch

FIGURES: dict[str, Any] = {
    "vocab_size": 304,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "rope_theta": 1e6,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": 258,
}


def random_qwen3(*, seed: int = 0, **config: Any) -> Any:
    """In float32, the same in every process. `config` overrides figures."""
    return random_model("qwen3", seed=seed, **config)


def random_model(model_type: str, *, seed: int = 0, **config: Any) -> Any:
    """The same of another family that transformers knows."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **(FIGURES | config)))
