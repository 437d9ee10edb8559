from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.algorithm.batching import collate, groups_with_gradient, mini_batch_counts, padded_length
from s2l_nemo.algorithm.losses.aggregation import LossScale
from s2l_nemo.algorithm.losses.policy import PolicyLoss
from s2l_nemo.algorithm.options import AGGREGATIONS, IMPORTANCE, AlgorithmConfig
from s2l_nemo.algorithm.sharing import balanced_replicas
from s2l_nemo.types import Completion, FinishReason, Group, Prompt, Source, TrainBatch
from tests.arrays import ids, lps

PAD = 99


def completion(
    prompt_id: int, sample_id: int, tokens: tuple[int, ...], source: Source, finish: FinishReason = "stop"
) -> Completion:
    logprobs = tuple(-0.1 * token for token in tokens)
    return Completion(prompt_id, sample_id, source, ids(tokens), lps(logprobs), finish, weight_version=0, reward=1.0)


def two_groups() -> list[Group]:
    first = (completion(7, 0, (5, 6, 2), Source.EXPLORER), completion(7, 1, (2,), Source.LEARNER))
    second = (completion(3, 0, (4, 2), Source.EXPLORER), completion(3, 1, (8, 8, 8, 8), Source.LEARNER, "length"))
    return [Group(Prompt(7, "", "", (1, 3)), first), Group(Prompt(3, "", "", (1,)), second)]


def test_collate_by_hand() -> None:
    batch = collate(two_groups(), torch.tensor([[0.5, -0.5], [1.0, -1.0]]), pad_token_id=PAD)
    assert batch.tokens_BT.tolist() == [
        [1, 3, 5, 6, 2],
        [1, 3, 2, PAD, PAD],
        [1, 4, 2, PAD, PAD],
        [1, 8, 8, 8, 8],
    ]
    # per-token tensors are aligned to tokens_BT[:, 1:]
    assert batch.mask_BS.tolist() == [[0, 1, 1, 1], [0, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    torch.testing.assert_close(
        batch.sampler_logprobs_BS,
        torch.tensor([[0, -0.5, -0.6, -0.2], [0, -0.2, 0, 0], [-0.4, -0.2, 0, 0], [-0.8] * 4]),
    )
    assert batch.advantages_B.tolist() == [0.5, -0.5, 1.0, -1.0]
    assert batch.source_B.tolist() == [1, 0, 1, 0]
    assert batch.prompt_id_B.tolist() == [7, 7, 3, 3]
    assert batch.sample_id_B.tolist() == [0, 1, 0, 1]
    assert {batch.tokens_BT.dtype, batch.source_B.dtype, batch.prompt_id_B.dtype} == {torch.int64}
    assert {batch.mask_BS.dtype, batch.sampler_logprobs_BS.dtype, batch.advantages_B.dtype} == {torch.float32}
    assert mini_batch_counts(batch) == (10, 4)


def test_truncated_answers_can_be_masked() -> None:
    batch = collate(two_groups(), torch.zeros(2, 2), pad_token_id=PAD, mask_truncated=True)
    assert batch.mask_BS[3].tolist() == [0, 0, 0, 0]
    assert mini_batch_counts(batch) == (6, 3)


@pytest.mark.parametrize(("multiple_of", "length", "T"), [(1, None, 5), (4, None, 8), (5, None, 5), (4, 12, 12)])
def test_padded_to_a_multiple(multiple_of: int, length: int | None, T: int) -> None:
    batch = collate(two_groups(), torch.zeros(2, 2), pad_token_id=PAD, multiple_of=multiple_of, length=length)
    assert batch.tokens_BT.shape == (4, T)
    assert batch.mask_BS.sum() == 10
    assert padded_length(5, multiple_of) == (T if length is None else 8)


@pytest.mark.parametrize(("multiple_of", "length"), [(1, 4), (4, 10)])
def test_a_length_that_does_not_fit(multiple_of: int, length: int) -> None:
    with pytest.raises(ValueError, match=f"length {length} must be at least 5"):
        collate(two_groups(), torch.zeros(2, 2), pad_token_id=PAD, multiple_of=multiple_of, length=length)


def test_shapes_that_do_not_agree() -> None:
    with pytest.raises(ValueError, match="advantages"):
        collate(two_groups(), torch.zeros(4), pad_token_id=PAD)
    ragged = [two_groups()[0], Group(two_groups()[1].prompt, two_groups()[1].completions[:1])]
    with pytest.raises(ValueError, match=r"different sizes: \[1, 2\]"):
        collate(ragged, torch.zeros(2, 2), pad_token_id=PAD)


VOCAB = 11


def random_groups(count: int, group_size: int) -> list[Group]:
    generator = torch.Generator().manual_seed(3)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high, (), generator=generator))
        return tuple(torch.randint(0, VOCAB, (length,), generator=generator).tolist())

    return [
        Group(
            Prompt(p, "", "", tokens(1, 4)),
            tuple(completion(p, g, tokens(1, 7), Source(g % 2), "stop") for g in range(group_size)),
        )
        for p in range(count)
    ]


def toy_logprobs(weight_VV: torch.Tensor, tokens_BT: torch.Tensor) -> torch.Tensor:
    """A bigram model: the logits of the next token are a row of a matrix."""
    logits_BSV = weight_VV[tokens_BT[:, :-1].clamp(max=VOCAB - 1)]
    targets_BS1 = tokens_BT[:, 1:].clamp(max=VOCAB - 1).unsqueeze(-1)
    return logits_BSV.log_softmax(-1).gather(-1, targets_BS1).squeeze(-1)


def gradient(
    groups: list[Group], advantages_PG: torch.Tensor, params: AlgorithmConfig, *, ranks: int, micro_batch: int
) -> tuple[float, torch.Tensor]:
    """Loss and gradient of one mini-batch, added up over simulated data-parallel ranks and micro-batches."""
    generator = torch.Generator().manual_seed(5)
    weight_VV, old_VV, ref_VV = torch.randn(3, VOCAB, VOCAB, generator=generator, dtype=torch.float64)
    weight_VV = old_VV + 0.2 * weight_VV
    weight_VV.requires_grad_()
    shards: list[TrainBatch] = []
    replica_P = balanced_replicas([len(group.prompt.token_ids) for group in groups], ranks, len(groups))
    for replica in range(ranks):
        mine = [p for p in range(len(groups)) if replica_P[p] == replica]
        batch = collate([groups[p] for p in mine], advantages_PG[mine], pad_token_id=PAD)
        old_BS, ref_BS = toy_logprobs(old_VV, batch.tokens_BT), toy_logprobs(ref_VV, batch.tokens_BT)
        shards.append(batch.with_logprobs(old_BS, ref_BS))
    tokens, sequences = (sum(counts) for counts in zip(*map(mini_batch_counts, shards), strict=True))
    scale = LossScale(tokens, sequences, max_response_length=6)
    total = 0.0
    for shard in shards:
        for part in shard.split(micro_batch):
            loss, _ = PolicyLoss.of(params)(toy_logprobs(weight_VV, part.tokens_BT), part, scale)
            loss.backward()
            total += loss.item()
    assert weight_VV.grad is not None
    return total, weight_VV.grad


@pytest.mark.parametrize("aggregation", AGGREGATIONS.names())
@pytest.mark.parametrize("importance", IMPORTANCE.names())
def test_gradient_does_not_depend_on_the_division(aggregation: str, importance: str) -> None:
    groups = random_groups(count=4, group_size=4)
    advantages_PG = torch.randn(4, 4, generator=torch.Generator().manual_seed(9))
    params = AlgorithmConfig(aggregation=aggregation, importance=importance, kl_coef=0.1)
    loss, whole_VV = gradient(groups, advantages_PG, params, ranks=1, micro_batch=16)
    assert whole_VV.norm() > 1e-3
    for ranks, micro_batch in [(1, 1), (1, 4), (2, 8), (2, 2), (4, 1), (4, 4)]:
        other_loss, other_VV = gradient(groups, advantages_PG, params, ranks=ranks, micro_batch=micro_batch)
        assert other_loss == pytest.approx(loss, rel=1e-5)
        torch.testing.assert_close(other_VV, whole_VV, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("advantages", "multiple_of", "expected"),
    [
        ([[1, -1], [0, 0], [2, -2], [0, 0]], 1, [0, 2]),
        ([[1, -1], [0, 0], [2, -2], [0, 0]], 4, [0, 2]),
        ([[0, 0], [0, 0], [0, 1], [0, 0]], 4, [0, 2]),  # the first without a gradient fills the micro-batch
        ([[0, 0], [0, 0], [0, 1], [0, 0]], 8, [0, 1, 2, 3]),
        ([[0, 0], [0, 0], [0, 0], [0, 0]], 1, [0]),  # a replica always has a micro-batch
        ([[0, 0], [0, 0], [0, 0], [1, 0]], 3, None),
    ],
)
def test_groups_with_gradient_by_hand(
    advantages: list[list[float]], multiple_of: int, expected: list[int] | None
) -> None:
    advantages_PG = torch.tensor(advantages, dtype=torch.float32)
    if expected is None:
        with pytest.raises(ValueError, match="4 groups of 2 cannot be cut into micro-batches of 3 rows"):
            groups_with_gradient(advantages_PG, multiple_of)
    else:
        assert groups_with_gradient(advantages_PG, multiple_of) == expected


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(1, 8), st.data())
def test_no_group_with_a_gradient_is_left_out(has: list[bool], group_size: int, data: st.DataObject) -> None:
    rows = len(has) * group_size
    multiple_of = data.draw(st.sampled_from([n for n in range(1, rows + 1) if rows % n == 0]))
    found = groups_with_gradient(torch.tensor(has).float()[:, None].expand(-1, group_size), multiple_of)
    assert found == sorted(set(found))
    assert {group for group, own in enumerate(has) if own} <= set(found)
    assert len(found) * group_size % multiple_of == 0
    assert found
    fewer = [n for n in range(1, len(found)) if n >= sum(has) and n * group_size % multiple_of == 0]
    assert not fewer
