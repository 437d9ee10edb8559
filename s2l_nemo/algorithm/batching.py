"""Makes the tensors of a training batch from groups of completions, and says who trains on which rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from s2l_nemo.types import Group, TrainBatch


def collate(
    groups: Sequence[Group],
    advantages_PG: torch.Tensor,
    *,
    pad_token_id: int,
    multiple_of: int = 1,
    length: int | None = None,
    mask_truncated: bool = False,
) -> TrainBatch:
    """Rows of all groups in order (row p * G + g), right-padded to a common T that `multiple_of` divides.

    `multiple_of` is the tensor-parallel size if sequence parallelism splits T. `length` is T itself, if ranks must
    agree on it. With `mask_truncated`, answers that were cut at the length limit get mask 0, so they give no gradient.
    Completions that are not `kept` always get mask 0.

    Raises ValueError if `advantages_PG` is not (P, G), or if `length` is too short or not a multiple.
    """
    rows = [(group.prompt, completion) for group in groups for completion in group.completions]
    group_size = len(groups[0].completions)
    if any(len(group.completions) != group_size for group in groups):
        raise ValueError(f"groups of different sizes: {sorted({len(group.completions) for group in groups})}")
    if advantages_PG.shape != (len(groups), group_size):
        raise ValueError(f"advantages are {tuple(advantages_PG.shape)}, the groups {(len(groups), group_size)}")
    longest = max(len(prompt.token_ids) + len(completion.token_ids) for prompt, completion in rows)
    T = padded_length(longest, multiple_of) if length is None else length
    if longest > T or T % multiple_of:
        raise ValueError(f"length {T} must be at least {longest} and a multiple of {multiple_of}")

    tokens_BT = torch.full((len(rows), T), pad_token_id, dtype=torch.long)
    mask_BS = torch.zeros(len(rows), T - 1)
    sampler_logprobs_BS = torch.zeros(len(rows), T - 1)
    for b, (prompt, completion) in enumerate(rows):
        start = len(prompt.token_ids)
        end = start + len(completion.token_ids)
        tokens_BT.numpy()[b, :start] = prompt.token_ids
        tokens_BT.numpy()[b, start:end] = completion.token_ids
        # Index t of a per-token tensor belongs to the token at position t + 1.
        mask_BS[b, start - 1 : end - 1] = 1
        sampler_logprobs_BS.numpy()[b, start - 1 : end - 1] = completion.logprobs
        if not completion.kept or (mask_truncated and completion.finish_reason == "length"):
            mask_BS[b] = 0
    return TrainBatch(
        tokens_BT=tokens_BT,
        mask_BS=mask_BS,
        sampler_logprobs_BS=sampler_logprobs_BS,
        advantages_B=advantages_PG.reshape(-1).float(),
        source_B=torch.tensor([completion.source for _, completion in rows]),
        prompt_length_B=torch.tensor([len(prompt.token_ids) for prompt, _ in rows]),
        length_B=torch.tensor([len(prompt.token_ids) + len(completion.token_ids) for prompt, completion in rows]),
        prompt_id_B=torch.tensor([completion.prompt_id for _, completion in rows]),
        sample_id_B=torch.tensor([completion.sample_id for _, completion in rows]),
        group_logprob_B=group_expectation(sampler_logprobs_BS, mask_BS, group_size),
    )


def group_expectation(sampler_logprobs_BS: torch.Tensor, mask_BS: torch.Tensor, group_size: int) -> torch.Tensor:
    """[B]: log of the sampler's expected probability of a response, over the group of each row.

    With q the geometric mean of the probabilities of a response's tokens, it is log(sum q^2 / sum q) over the responses
    of the group that have tokens (GEPO, arXiv 2508.17850, Eq. 2, with the length taken out of q as in its code). It is
    0 if none has. Rows of a group stand together.
    """
    sums_B = torch.where(mask_BS.bool(), sampler_logprobs_BS.double(), 0.0).sum(1)
    counted_PG = mask_BS.any(1).view(-1, group_size)
    q_PG = (sums_B / mask_BS.sum(1).clamp(min=1)).view(-1, group_size).exp() * counted_PG
    log_P = (q_PG.square().sum(1) / q_PG.sum(1)).log()
    return torch.where(counted_PG.any(1), log_P, 0.0).repeat_interleave(group_size).float()


def padded_length(length: int, multiple_of: int) -> int:
    """The smallest multiple of `multiple_of` that is at least `length`."""
    return -(-length // multiple_of) * multiple_of


def groups_with_gradient(advantages_PG: torch.Tensor, multiple_of: int) -> list[int]:
    """The groups in which some advantage is not 0, in order.

    As many of the other groups, the first ones, are added as make P * G a positive multiple of `multiple_of`, the rows
    of a micro-batch.

    Raises ValueError if all groups together are no such multiple.
    """
    has_gradient_P = (advantages_PG != 0).any(1).tolist()
    groups, group_size = advantages_PG.shape
    unit = multiple_of // math.gcd(multiple_of, group_size)  # groups
    if groups % unit:
        raise ValueError(f"{groups} groups of {group_size} cannot be cut into micro-batches of {multiple_of} rows")
    count = max(-(-sum(has_gradient_P) // unit) * unit, unit)
    first = sorted(range(groups), key=lambda group: not has_gradient_P[group])[:count]
    return sorted(first)


def mini_batch_counts(batch: TrainBatch) -> tuple[int, int]:
    """Response tokens, and sequences with at least one, of these rows. Their sums over ranks make a `LossScale`."""
    return int(batch.mask_BS.sum().item()), int(batch.mask_BS.any(1).sum().item())
