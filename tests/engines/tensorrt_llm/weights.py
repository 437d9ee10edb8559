"""Random weights, in the buckets of a refit, and what TensorRT-LLM calls the parts of an engine's memory."""

from __future__ import annotations

import torch

from tests.engines.random_qwen3 import build_model

WEIGHT_TAGS = [
    "sampler", "drafter", "guided_decoder", "spec_resource_manager",
    "model_extra", "executor_extra", "model", "draft_model",
]  # fmt: skip


def weights(seed: int, *, tied: bool = False) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in build_model(seed=seed, tied=tied).named_parameters()}


def buckets(tensors: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """What is outside the layers, attention and MLP of each layer: a bucket each."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        pieces = name.split(".")
        key = ".".join(pieces[1:4]) if pieces[1] == "layers" else "other"
        parts.setdefault(key, {})[name] = tensor
    return list(parts.values())
