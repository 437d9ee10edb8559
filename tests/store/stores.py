"""Small stores whose every value is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from s2l_nemo.store.facts import StoreFacts, hash_prompts, write_facts
from s2l_nemo.store.prompts import write_prompts
from s2l_nemo.store.shards import FOLDER, Rollout, Shard, write_shard
from s2l_nemo.types import Prompt, SamplingParams

STOP, VOCAB, LIMIT = 9, 50, 6
PARAMS = SamplingParams(LIMIT, (STOP,))
PROMPTS = [Prompt(number, f"question {number}", str(number), (number, 20)) for number in (3, 5, 11)]


def facts_of(prompts: Sequence[Prompt] = PROMPTS, **changed: Any) -> StoreFacts:
    facts = StoreFacts(
        model="some/model",
        weight_hash="a" * 64,
        precision="fp32",
        vocab_size=VOCAB,
        tokenizer_hash="b" * 64,
        sampling=PARAMS,
        prompts=len(prompts),
        prompts_hash=hash_prompts(prompts),
        seed=7,
        explorer=1,
        rewards={"answer": "math", "fn": None},
        has_logprobs=True,
        versions={"python": "3"},
    )
    return replace(facts, **changed)


def rollout(prompt_id: int, sample: int) -> Rollout:
    """A rollout of 1 to 6 tokens, the first two of which are its prompt and its sample, if it has so many."""
    length = (prompt_id + 2 * sample) % LIMIT + 1
    tokens = [prompt_id, 20 + sample, 40, 41, 42, 43][:length]
    if length < LIMIT:
        tokens[-1] = STOP
    return Rollout(
        prompt_id=prompt_id,
        sample=sample,
        token_ids=np.array(tokens, np.int32),
        logprobs=-np.arange(1, length + 1, dtype=np.float32) / 8 - sample,
        finish_reason="stop" if length < LIMIT else "length",
        reward=float(sample % 2),
        answer=str(sample) if sample else None,
        grader_error="too slow" if sample == 2 else None,
        seed=100 * prompt_id + sample,
    )


def write_store(
    folder: Path,
    shards: Iterable[Sequence[Rollout]] | None = None,
    facts: StoreFacts | None = None,
    prompts: Sequence[Prompt] = PROMPTS,
) -> Path:
    """Writes a store. By default one file has samples 0 and 1 of all prompts, and one samples 2 and 3."""
    facts = facts or facts_of(prompts)
    if shards is None:
        shards = [[rollout(one.prompt_id, n) for one in prompts for n in part] for part in ((0, 1), (2, 3))]
    (folder / FOLDER).mkdir(parents=True)
    write_prompts(folder, prompts)
    for number, rollouts in enumerate(shards):
        write_shard(folder / FOLDER / f"{number}.parquet", Shard.of(rollouts), facts, "embedded")
    write_facts(folder, facts)
    return folder
