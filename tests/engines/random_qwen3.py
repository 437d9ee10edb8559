"""Tiny random Qwen3 models: head_dim differs from hidden / heads, and two query heads share a KV head."""

from __future__ import annotations

import random
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from s2l_nemo.types import SampleRequest

VOCAB = 97


def build_model(*, tied: bool = False, seed: int = 0, max_positions: int = 64) -> Any:
    """A random Qwen3 in float32. Weights are large enough that its next-token distributions are far from uniform."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=max_positions,
        initializer_range=0.3,
        tie_word_embeddings=tied,
    )
    return Qwen3ForCausalLM(config).eval()


def make_requests(prompts: int, samples: int, *, seed: int = 0, longest: int = 12) -> list[SampleRequest]:
    """`samples` requests for each of `prompts` random prompts of 1 to `longest` tokens, each with a seed of its own."""
    rng = random.Random(seed)
    texts = [tuple(rng.randrange(3, VOCAB) for _ in range(rng.randint(1, longest))) for _ in range(prompts)]
    return [
        SampleRequest(prompt_id=prompt, sample_id=sample, prompt_token_ids=tokens, seed=1000 * prompt + sample)
        for prompt, tokens in enumerate(texts)
        for sample in range(samples)
    ]
