"""Packed rows: every token once, prompts shared by neighbours, and nothing lost on the way back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.algorithm.batching import collate
from s2l_nemo.algorithm.packing import cut, pack
from s2l_nemo.types import Completion, Group, Prompt, Source, TrainBatch
from tests.arrays import ids, lps


def make_batch(groups: list[tuple[list[int], list[list[int]]]], multiple_of: int = 1) -> TrainBatch:
    """Groups of (prompt, responses)."""

    def completion(prompt: int, sample: int, tokens: list[int]) -> Completion:
        return Completion(prompt, sample, Source.LEARNER, ids(tokens), lps([-1.0] * len(tokens)), "stop", 0, 1.0)

    made = [
        Group(Prompt(p, "", "", tuple(prompt)), tuple(completion(p, g, tokens) for g, tokens in enumerate(responses)))
        for p, (prompt, responses) in enumerate(groups)
    ]
    return collate(made, torch.zeros(len(made), len(made[0].completions)), pad_token_id=0, multiple_of=multiple_of)


def test_two_groups_by_hand() -> None:
    packed = pack(make_batch([([1, 2], [[3, 4, 5], [6]]), ([7], [[8], [9, 10]])]), multiple_of=4)
    assert packed.tokens_1N.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 0]]
    assert packed.position_1N.tolist() == [[0, 1, 2, 3, 4, 2, 0, 1, 1, 2, 0, 0]]
    first, second = packed.spans
    assert (first.start, first.prompt, first.responses, first.end) == (0, 2, (3, 1), 6)
    assert first.rows_R.tolist() == [2, 3, 4, 5, 0, 0]
    assert first.tokens_R.tolist() == [0, 1, 2, 3]
    assert first.sees_RK.int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert (second.start, second.prompt, second.responses, second.end) == (6, 1, (1, 2), 10)
    assert second.rows_R.tolist() == [7, 6, 8, 9]
    assert second.tokens_R.tolist() == [0, 2, 3]
    assert packed.source_M.tolist() == [1, 2, 3, 1, 6, 6, 8]  # the first tokens of a group come after one prompt
    assert packed.target_M.tolist() == [3, 4, 5, 6, 8, 9, 10]
    values_1M = torch.arange(1.0, 8.0)[None]
    assert packed.unpack(values_1M, torch.Size((4, 4)))[0].tolist() == [
        [0, 1, 2, 3], [0, 4, 0, 0], [5, 0, 0, 0], [6, 7, 0, 0],
    ]  # fmt: skip


tokens = st.lists(st.integers(1, 99), min_size=1, max_size=6)


groups_of_tokens = st.integers(1, 4).flatmap(
    lambda size: st.lists(st.tuples(tokens, st.lists(tokens, min_size=size, max_size=size)), min_size=1, max_size=4)
)


@given(groups_of_tokens, st.integers(1, 4))
def test_every_row_is_found_in_the_packed_tokens(
    groups: list[tuple[list[int], list[list[int]]]], multiple_of: int
) -> None:
    batch = make_batch(groups, multiple_of)
    packed = pack(batch, multiple_of)
    real = sum(len(prompt) + sum(map(len, responses)) for prompt, responses in groups)
    assert packed.tokens_1N.size(1) == -(-real // multiple_of) * multiple_of
    row = 0
    for span in packed.spans:
        rows_nR = span.rows_R.view(len(span.responses), -1)
        for own_R, response in zip(rows_nR, span.responses, strict=True):
            index_T = torch.cat([torch.arange(span.start, span.start + span.prompt), own_R[:response]])
            assert packed.tokens_1N[0, index_T].tolist() == batch.tokens_BT[row, : len(index_T)].tolist()
            assert packed.position_1N[0, index_T].tolist() == list(range(len(index_T)))
            assert len(index_T) == batch.length_B[row]
            row += 1
        # in their packed order, the tokens of the padded rows are what comes after the prompt
        assert span.rows_R[span.tokens_R].tolist() == list(range(span.start + span.prompt, span.end))
    assert row == len(batch)
    assert packed.spans[-1].end == real
    values_1M = torch.rand(1, len(packed.target_M)) + 1
    back_BS = packed.unpack(values_1M, batch.mask_BS.shape)[0]
    assert torch.equal(back_BS > 0, batch.mask_BS > 0)
    assert torch.equal(
        packed.unpack(packed.target_M[None], batch.mask_BS.shape)[0], batch.tokens_BT[:, 1:] * batch.mask_BS.long()
    )


def test_the_mask_says_which_targets_are_wanted() -> None:
    batch = make_batch([([1, 2], [[3, 4, 5], [6]])])
    batch.mask_BS[0] = 0
    packed = pack(batch)
    assert packed.target_M.tolist() == [6]
    assert packed.source_M.tolist() == [1]


def test_cuts_by_hand() -> None:
    batch = make_batch([([1, 2], [[3] * 6, [4]]), ([5], [[6] * 2, [7] * 3])])  # lengths 8 3 | 3 4
    assert cut(batch, rows=2, tokens=None) == [[0, 1], [2, 3]]
    # the second group is shorter: 3 + 3 tokens, then 3 and 6 more of the first group
    assert cut(batch, rows=2, tokens=6) == [[2, 3], [1], [0]]
    assert cut(batch, rows=2, tokens=9) == [[2, 3, 1], [0]]
    assert cut(batch, rows=2, tokens=15) == [[2, 3, 1, 0]]
    with pytest.raises(ValueError, match="a batch of 4 sequences cannot be cut into micro-batches of 3"):
        cut(batch, rows=3, tokens=None)


@given(groups_of_tokens, st.integers(1, 60))
def test_every_row_is_in_one_micro_batch(groups: list[tuple[list[int], list[list[int]]]], tokens: int) -> None:
    batch = make_batch(groups)
    cuts = cut(batch, rows=1, tokens=tokens)
    assert sorted(row for rows in cuts for row in rows) == list(range(len(batch)))
    for rows in cuts:
        size = pack(batch.select(rows)).tokens_1N.size(1)
        assert size <= tokens or len(rows) == 1
