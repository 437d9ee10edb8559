"""Packs the rows of a micro-batch without padding, and the prompt that rows of a group share only once.

N tokens of the micro-batch are one sequence: a prompt, then the responses to it, then the next prompt. Everything but
attention works token by token, so it costs N and not B * T. Attention needs to know who sees whom: `spans` says it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from s2l_nemo.types import TrainBatch


@dataclass(frozen=True)
class Span:
    """A prompt of P tokens at `start` of the packed sequence, and right after it the n responses that share it.

    The responses padded to the longest are n rows of R tokens.
    """

    start: int
    prompt: int
    responses: tuple[int, ...]  # tokens of each
    rows_R: torch.Tensor  # n * R indices into the packed sequence; of any token where a row is padded
    tokens_R: torch.Tensor  # where in those rows the tokens stand, in their packed order
    sees_RK: torch.Tensor  # bool [R, P + R]: a response token sees the prompt, itself and what comes before it

    @property
    def end(self) -> int:
        return self.start + self.prompt + sum(self.responses)


@dataclass(frozen=True)
class PackedRows:
    """The tokens of B rows as one sequence of N, and the M response tokens whose log-probs are wanted."""

    tokens_1N: torch.Tensor
    position_1N: torch.Tensor  # of each token in its row
    spans: tuple[Span, ...]
    source_M: torch.Tensor  # index n of the token whose output predicts the target
    target_M: torch.Tensor
    place_M: torch.Tensor  # b * S + s, where the target stands in tensors [B, S]

    def unpack(self, values_FM: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Values of the targets at their places in [F, B, S], 0 elsewhere. `shape` is (B, S)."""
        out = values_FM.new_zeros(values_FM.size(0), shape.numel())
        return out.index_copy(1, self.place_M, values_FM).view(-1, *shape)


def cut(batch: TrainBatch, *, rows: int, tokens: int | None) -> list[list[int]]:
    """The rows of each micro-batch: `rows` at a time, or as many as have at most `tokens` when they are packed.

    With `tokens`, the rows of a group stand together, sorted by length, and groups are sorted by their longest row, so
    that attention pads little. A row that is longer than `tokens` stands alone.

    Raises ValueError if `rows` does not divide the batch and there is no `tokens`.
    """
    if tokens is None:
        if len(batch) % rows:
            raise ValueError(f"a batch of {len(batch)} sequences cannot be cut into micro-batches of {rows}")
        return [list(range(start, start + rows)) for start in range(0, len(batch), rows)]
    prompt_B, length_B, id_B = batch.prompt_length_B.tolist(), batch.length_B.tolist(), batch.prompt_id_B.tolist()
    longest: dict[int, int] = {}
    for prompt_id, length in zip(id_B, length_B, strict=True):
        longest[prompt_id] = max(length, longest.get(prompt_id, 0))
    cuts: list[list[int]] = []
    total = tokens  # so that the first row begins a micro-batch
    for row in sorted(range(len(batch)), key=lambda b: (longest[id_B[b]], id_B[b], length_B[b])):
        shared = bool(cuts) and id_B[cuts[-1][-1]] == id_B[row]
        more = length_B[row] - (prompt_B[row] if shared else 0)
        if total + more > tokens:
            cuts.append([])
            total, more = 0, length_B[row]
        cuts[-1].append(row)
        total += more
    return cuts


def pack(batch: TrainBatch, multiple_of: int = 1) -> PackedRows:
    """The packed rows. Neighbours of the same `prompt_id_B` share their prompt. Padding makes N a multiple."""
    tokens_BT, device = batch.tokens_BT, batch.tokens_BT.device
    prompt_B, length_B, id_B = batch.prompt_length_B.tolist(), batch.length_B.tolist(), batch.prompt_id_B.tolist()
    pieces, positions, spans, end = [], [], [], 0
    index_BT = torch.zeros(len(batch), max(length_B), dtype=torch.long)  # of the token of each row
    first = 0
    while first < len(batch):
        last = first + 1
        while last < len(batch) and id_B[last] == id_B[first]:
            last += 1
        prompt, start = prompt_B[first], end
        pieces.append(tokens_BT[first, :prompt])
        positions.append(torch.arange(prompt))
        end += prompt
        for b in range(first, last):
            response = length_B[b] - prompt
            index_BT[b, :prompt] = torch.arange(start, start + prompt)
            index_BT[b, prompt : length_B[b]] = torch.arange(end, end + response)
            pieces.append(tokens_BT[b, prompt : length_B[b]])
            positions.append(torch.arange(prompt, length_B[b]))
            end += response
        spans.append(_span(start, prompt, tuple(length - prompt for length in length_B[first:last]), device))
        first = last
    padding = -end % multiple_of
    pieces.append(tokens_BT.new_zeros(padding))
    positions.append(torch.zeros(padding, dtype=torch.long))
    b_M, s_M = batch.mask_BS.nonzero(as_tuple=True)
    return PackedRows(
        tokens_1N=torch.cat(pieces)[None],
        position_1N=torch.cat(positions).to(device)[None],
        spans=tuple(spans),
        source_M=index_BT.to(device)[b_M, s_M],
        target_M=tokens_BT[b_M, s_M + 1],
        place_M=b_M * batch.mask_BS.size(1) + s_M,
    )


def _span(start: int, prompt: int, responses: tuple[int, ...], device: torch.device) -> Span:
    longest = max(responses)
    length_n1 = torch.tensor(responses)[:, None]
    first_n1 = start + prompt + length_n1.cumsum(0) - length_n1
    column_R = torch.arange(longest)
    is_token_nR = column_R < length_n1
    rows_nR = torch.where(is_token_nR, first_n1 + column_R, start)
    sees_RK = torch.ones(longest, prompt + longest, dtype=torch.bool).tril(prompt)
    tokens_R = is_token_nR.flatten().nonzero()[:, 0]
    return Span(start, prompt, responses, rows_nR.flatten().to(device), tokens_R.to(device), sees_RK.to(device))
