"""Writes the rollouts of a step to a parquet file: who said what, with which probability, and its reward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from s2l_nemo.files import replacing
from s2l_nemo.types import Group


@dataclass(frozen=True)
class RolloutRow:
    """One completion. `source` is `explorer` or `learner`. `logprobs` has one natural logarithm for each token."""

    step: int
    prompt_id: int
    sample_id: int
    source: str
    prompt: str
    response: str
    answer: str
    token_ids: list[int]
    logprobs: list[float]
    advantage: float
    reward: float | None
    extracted: str | None
    grader_error: str | None
    kept: bool
    finish_reason: str
    weight_version: int


def rollout_rows(
    step: int, groups: Iterable[Group], advantages_B: Sequence[float], decode: Callable[[Sequence[int]], str]
) -> list[RolloutRow]:
    """The rows of a step. Groups, their completions and `advantages_B` have one order, and rows have it too."""
    pairs = [(group.prompt, completion) for group in groups for completion in group.completions]
    return [
        RolloutRow(
            step=step,
            prompt_id=completion.prompt_id,
            sample_id=completion.sample_id,
            source=completion.source.name.lower(),
            prompt=prompt.text,
            response=decode(completion.token_ids),
            answer=prompt.answer,
            token_ids=list(completion.token_ids),
            logprobs=list(completion.logprobs),
            advantage=float(advantage),
            reward=completion.reward,
            extracted=completion.answer,
            grader_error=completion.grader_error,
            kept=completion.kept,
            finish_reason=completion.finish_reason,
            weight_version=completion.weight_version,
        )
        for (prompt, completion), advantage in zip(pairs, advantages_B, strict=True)
    ]


def write_rollouts(path: Path, rows: Sequence[RolloutRow]) -> None:
    """Writes the rows as parquet (zstd), all or nothing. Makes the folder if it is missing."""
    import pyarrow as pa
    from pyarrow import parquet

    types = {"token_ids": pa.list_(pa.int32()), "logprobs": pa.list_(pa.float32())}
    types |= dict.fromkeys(("step", "prompt_id", "sample_id", "weight_version"), pa.int64())
    types |= dict.fromkeys(("advantage", "reward"), pa.float32()) | {"kept": pa.bool_()}
    names = [field.name for field in fields(RolloutRow)]
    schema = pa.schema([(name, types.get(name, pa.string())) for name in names])
    table = pa.table({name: [getattr(row, name) for row in rows] for name in names}, schema=schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        parquet.write_table(table, temporary, compression="zstd")


def read_rollouts(path: Path) -> list[RolloutRow]:
    """The rows of one file in the order in which they were written. Floats have 32 bits."""
    from pyarrow import parquet

    return [RolloutRow(**row) for row in parquet.ParquetFile(path).read().to_pylist()]
