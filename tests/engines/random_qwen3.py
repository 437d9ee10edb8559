"""Tiny random Qwen3 models for engines, and requests for them."""

from __future__ import annotations

import random
from typing import Any

from s2l_nemo.types import SampleRequest
from tests.random_qwen3 import random_qwen3

VOCAB = 97


def build_model(*, tied: bool = False, seed: int = 0, max_positions: int = 64) -> Any:
    """Its weights are large enough that its next-token distributions are far from uniform."""
    return random_qwen3(
        seed=seed, vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, head_dim=16,
        max_position_embeddings=max_positions, initializer_range=0.3, tie_word_embeddings=tied, eos_token_id=None,
    ).eval()  # fmt: skip


def make_requests(prompts: int, samples: int, *, seed: int = 0, longest: int = 12) -> list[SampleRequest]:
    """`samples` requests for each of `prompts` random prompts of 1 to `longest` tokens, each with a seed of its own."""
    rng = random.Random(seed)
    texts = [tuple(rng.randrange(3, VOCAB) for _ in range(rng.randint(1, longest))) for _ in range(prompts)]
    return [
        SampleRequest(prompt_id=prompt, sample_id=sample, prompt_token_ids=tokens, seed=1000 * prompt + sample)
        for prompt, tokens in enumerate(texts)
        for sample in range(samples)
    ]
