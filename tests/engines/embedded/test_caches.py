"""A cache whose rows share their prompts against one whose rows have all of it, in whatever order rows come and go."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

from s2l_nemo.engines.embedded.kv_cache import SlotCache, grown
from s2l_nemo.engines.embedded.scheduler import Decode, Join, Scheduler
from s2l_nemo.engines.embedded.shared_cache import SharedCache
from s2l_nemo.types import SampleRequest, SamplingParams

LAYERS, QUERIES, HEADS, SIZE = 2, 4, 2, 8
STOP = 0
PARAMS = SamplingParams(max_new_tokens=9, stop_token_ids=(STOP,))


def prefilled(lengths: list[int], generator: torch.Generator) -> tuple[DynamicCache, list[int]]:
    """Random keys and values of left-padded prompts, and where each begins. Padding is NaN, which must not matter."""
    cache, longest = DynamicCache(), max(lengths)
    starts = [longest - length for length in lengths]
    for layer in range(LAYERS):
        keys, values = torch.randn(2, len(lengths), HEADS, longest, SIZE, generator=generator)
        for row, start in enumerate(starts):
            keys[row, :, :start] = values[row, :, :start] = torch.nan
        cache.update(keys, values, layer)
    return cache, starts


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 5)), min_size=1, max_size=6),  # tokens of a prompt, its rows
    st.integers(1, 8),
    st.integers(0, 99),
)
def test_shared_prompts_change_no_attention(prompts: list[tuple[int, int]], slots: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    requests = [
        SampleRequest(number, sample, tuple(range(number, number + length)), seed=0)
        for number, (length, rows) in enumerate(prompts)
        for sample in range(rows)
    ]
    scheduler = Scheduler(requests, PARAMS, slots)
    longest = max(length for length, _ in prompts)
    whole, shared = SlotCache(scheduler.slots, longest + 9), SharedCache(scheduler.slots, longest + 9)
    while scheduler.busy:
        step = scheduler.schedule()
        if isinstance(step, Join):
            joining: dict[tuple[int, ...], list[int]] = {}
            for slot, row in enumerate(step.rows, start=step.first_slot):
                joining.setdefault(row.prompt, []).append(slot)
            cache, starts = prefilled([len(prompt) for prompt in joining], generator)
            for row_of_cache, its_slots in enumerate(joining.values()):
                whole.insert(cache, row_of_cache, its_slots, starts[row_of_cache])
                shared.insert(cache, row_of_cache, its_slots, starts[row_of_cache])
        assert isinstance(step, (Join, Decode))
        rows = len(step.rows)
        if isinstance(step, Decode):
            positions = [row.last_position for row in step.rows]
            whole.at(positions)
            shared.at(positions)
            for layer in range(LAYERS):
                query = torch.randn(rows, QUERIES, SIZE, generator=generator)
                key, value = torch.randn(2, rows, HEADS, SIZE, generator=generator)
                expected = whole.attend(layer, query, key, value)
                heads, attended = torch.cat([query, key, value], dim=1), torch.empty_like(expected)
                shared.attend(layer, heads.numpy(), attended.numpy())
                torch.testing.assert_close(attended, expected, atol=1e-5, rtol=0)
        tokens = torch.randint(0, 4, (rows,), generator=generator).tolist()  # one in four stops
        _, moves = scheduler.postprocess(step, tokens, [-1.0] * rows)
        if moves is not None:
            whole.move(moves.sources, moves.targets, moves.free.start)
            shared.move(moves.sources, moves.targets, moves.free.start)


def test_prompts_of_rows_that_ended_are_forgotten() -> None:
    shared, generator = SharedCache(4, 9), torch.Generator().manual_seed(0)
    cache, starts = prefilled([3, 2, 4], generator)
    for row in range(3):
        shared.insert(cache, row, [row], starts[row])
    shared.move([2], [0], 2)  # the row of the first prompt has ended
    assert (shared._lengths, shared._prompt_of) == ([4, 2], [0, 1])
    kept = cache.key_cache[0][2]
    assert torch.equal(shared._prompts[0][0, 0, :, :4], kept)
    shared.move([], [], 0)
    assert (shared._lengths, shared._prompt_of) == ([], [])


def test_memory_follows_the_longest_sequence_and_not_the_limit() -> None:
    whole, shared = SlotCache(2, 100_000), SharedCache(2, 100_000)
    cache, _ = prefilled([5], torch.Generator().manual_seed(0))
    for one in (whole, shared):
        one.insert(cache, 0, [0, 1], 0)
        one.at([5, 5])
    assert whole._layers[0].size(3) == 64
    assert shared._answers[0].size(3) == 128
    key = torch.zeros(2, HEADS, SIZE)
    for position in range(5, 300):
        for one in (whole, shared):
            one.at([position, position])
        whole.attend(0, torch.zeros(2, QUERIES, SIZE), key, key)
        heads, out = np.zeros((2, QUERIES + 2 * HEADS, SIZE), np.float32), np.empty((2, QUERIES * SIZE), np.float32)
        shared.attend(0, heads, out)
    assert 300 <= whole._layers[0].size(3) <= 450
    assert 295 <= shared._answers[0].size(3) <= 450


def test_what_grows_keeps_what_it_has() -> None:
    states = torch.randn(2, 3, HEADS, 4, SIZE)
    larger = grown(states, 5, 7)
    assert torch.equal(larger[:, :3, :, :4], states)
    assert larger.count_nonzero() == states.count_nonzero()
