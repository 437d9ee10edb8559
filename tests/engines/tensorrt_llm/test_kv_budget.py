"""The double's KV cache: worked by hand, and as the adapter's engines see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.engines.settings import EngineSettings
from s2l_nemo.engines.tensorrt_llm.engine import TensorRTExplorer
from s2l_nemo.models.precision import Precision
from s2l_nemo.types import SamplingParams, Source
from tests.agreement import assert_same_completions
from tests.engines.random_qwen3 import make_requests

PARAMS = SamplingParams(max_new_tokens=16, stop_token_ids=(1,))


def schedule(policy: str, *, blocks: int, rows: int = 8, requests: int = 4) -> tuple[int, int, int]:
    """Steps, most rows and preemptions of requests with 2 tokens of prompt and 6 new ones, in blocks of 2 tokens."""
    from tensorrt_llm._scheduler import Request, play
    from tensorrt_llm.llmapi import CapacitySchedulerPolicy

    played = play([Request(2, 6, 6) for _ in range(requests)], blocks, 2, rows, CapacitySchedulerPolicy(policy))
    return played.steps, played.most_rows, played.preemptions


def test_a_reservation_keeps_a_place_for_every_token() -> None:
    """8 tokens are 4 blocks: two requests fit 8 blocks, two wait for the end."""
    assert schedule("GUARANTEED_NO_EVICT", blocks=8) == (12, 2, 0)
    assert schedule("GUARANTEED_NO_EVICT", blocks=16) == (6, 4, 0)


def test_rows_join_as_long_as_their_next_token_fits() -> None:
    """With room for all, nothing waits and nothing is thrown out; `rows` bounds the batch."""
    assert schedule("MAX_UTILIZATION", blocks=16) == (6, 4, 0)
    assert schedule("MAX_UTILIZATION", blocks=16, rows=2) == (12, 2, 0)


def test_the_youngest_row_is_thrown_out_and_comes_back() -> None:
    """8 blocks hold four rows of 3 or 4 tokens, and two of up to 8.

    Steps 1 and 2 have four rows. Two leave for steps 3 to 6. They come back with two of their tokens.
    """
    assert schedule("MAX_UTILIZATION", blocks=8) == (10, 4, 2)


def test_a_request_that_never_fits(double: Any) -> None:
    with pytest.raises(double.Misuse, match=r"2 \+ 6 tokens never fit a KV cache of 3 blocks"):
        schedule("MAX_UTILIZATION", blocks=3)


def test_the_smaller_limit_of_the_cache_holds() -> None:
    from tensorrt_llm.llmapi import KvCacheConfig

    assert KvCacheConfig(free_gpu_memory_fraction=0.5).blocks(640) == 10  # half of 640 tokens in blocks of 32
    assert KvCacheConfig(free_gpu_memory_fraction=0.5, max_tokens=96).blocks(640) == 3
    assert KvCacheConfig(free_gpu_memory_fraction=0.5, max_tokens=960).blocks(640) == 10


def explorer(folder: Path) -> TensorRTExplorer:
    return TensorRTExplorer(
        EngineSettings(
            source=Source.EXPLORER,
            key="explorer.path",
            path=str(folder),
            precision=Precision.fp32,
            device="cuda",
            max_batch_rows=16,
            max_sequence_length=48,
            tensor_parallel_size=1,
            memory_fraction=0.5,
        )
    )


def test_an_engine_uses_all_its_rows_and_no_more_memory(folder: Path) -> None:
    engine = explorer(folder)
    engine.generate(make_requests(prompts=6, samples=4, longest=30), PARAMS)
    [played] = engine._llm.schedules
    assert (played.most_rows, played.preemptions) == (16, 0)
    assert engine._llm.args.kv_cache_config.max_tokens == 16 * 64  # two blocks of 32 a row


def test_preemption_changes_no_sample(folder: Path, double: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = make_requests(prompts=6, samples=4, longest=30)
    engine = explorer(folder)
    expected = engine.generate(requests, PARAMS)
    engine.close()
    monkeypatch.setattr(double.LLM, "free_kv_tokens", 512)  # 8 blocks for the cache
    short = explorer(folder)
    assert_same_completions(short.generate(requests, PARAMS), expected)
    [played] = short._llm.schedules
    assert played.preemptions > 0
    assert played.most_rows <= 8
