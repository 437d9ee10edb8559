"""Writes the rollouts of a step to a parquet file: who said what, with which probability, and its reward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_nemo.errors import UserError
from s2l_nemo.files import replacing
from s2l_nemo.types import Group

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP_BYTES = 2**26
ROWS_AT_ONCE = 256
_MAY_LACK = ("reward", "extracted", "grader_error")


@dataclass(frozen=True)
class RolloutRow:
    """One completion. `source` is the sampler's name. `logprobs` has one natural logarithm for each token."""

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


def rollout_table(
    step: int,
    group: Group,
    advantages_G: Sequence[float],
    decode: Callable[[Sequence[int]], str],
    sources: Sequence[str] = ("learner", "explorer"),
) -> pa.Table:
    """The rows of one group, in its order. `sources` are the names of samplers.

    Raises ValueError unless each completion has an advantage.
    """
    if len(advantages_G) != len(group.completions):
        raise ValueError(f"{len(group.completions)} completions have {len(advantages_G)} advantages")
    columns: dict[str, list[Any]] = {field.name: [] for field in fields(RolloutRow)}
    for completion, advantage in zip(group.completions, advantages_G, strict=True):
        row = {
            "step": step,
            "prompt_id": completion.prompt_id,
            "sample_id": completion.sample_id,
            "source": sources[completion.source],
            "prompt": group.prompt.text,
            "response": decode(completion.token_ids.tolist()),
            "answer": group.prompt.answer,
            "token_ids": completion.token_ids,
            "logprobs": completion.logprobs,
            "advantage": advantage,
            "reward": completion.reward,
            "extracted": completion.answer,
            "grader_error": completion.grader_error,
            "kept": completion.kept,
            "finish_reason": completion.finish_reason,
            "weight_version": completion.weight_version,
        }
        for name, values in columns.items():
            values.append(row[name])
    import pyarrow as pa

    return pa.table(columns, schema=_schema())


def table_bytes(table: pa.Table) -> bytes:
    """A table for another rank, which reads it with `table_of_bytes`."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def table_of_bytes(data: bytes) -> pa.Table:
    import pyarrow as pa

    return pa.ipc.open_stream(data).read_all()


def write_rollouts(path: Path, tables: Iterable[pa.Table]) -> None:
    """Writes the rows of all tables as parquet (zstd), all or nothing. Makes the folder if it is missing.

    It holds about 64 MiB of them at a time.
    """
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, parquet.ParquetWriter(temporary, _schema(), compression="zstd") as writer:
        for row_group in _row_groups(tables):
            writer.write_table(row_group)


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    import pyarrow as pa

    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(one.nbytes for one in held) >= ROW_GROUP_BYTES:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _schema() -> pa.Schema:
    import pyarrow as pa

    types = {"token_ids": pa.list_(pa.int32()), "logprobs": pa.list_(pa.float32())}
    types |= dict.fromkeys(("step", "prompt_id", "sample_id", "weight_version"), pa.int64())
    types |= dict.fromkeys(("advantage", "reward"), pa.float32()) | {"kept": pa.bool_()}
    return pa.schema([(field.name, types.get(field.name, pa.string())) for field in fields(RolloutRow)])


def read_rollouts(path: Path) -> list[RolloutRow]:
    """The rows of one file in the order in which they were written. Floats have 32 bits.

    Raises UserError as `rollout_batches`.
    """
    return list(iterate_rollouts(path))


def iterate_rollouts(path: Path) -> Iterator[RolloutRow]:
    """The same one after the other: a file of the paper's size has more tokens than a list of them has room for."""
    for batch in rollout_batches(path):
        yield from (RolloutRow(**row) for row in batch.to_pylist())


def rollout_batches(
    path: Path, columns: Sequence[str] | None = None, rows: int = ROWS_AT_ONCE
) -> Iterator[pa.RecordBatch]:
    """These columns of a file, all by default, some hundred rows at a time.

    Raises UserError if the file is missing or damaged, has other columns than a run writes, or lacks a value.
    """
    from pyarrow import parquet

    names = [field.name for field in fields(RolloutRow)] if columns is None else list(columns)
    wanted = _types(_schema())
    try:
        with parquet.ParquetFile(path) as file:
            found = _types(file.schema_arrow)
            wrong = next((name for name in names if found.get(name) != wanted[name]), None)
            if wrong is not None:
                raise ValueError(f"the column {wrong} is {found.get(wrong, 'absent')}, not {wanted[wrong]}")
            for batch in file.iter_batches(rows, columns=names, use_threads=False):
                batch.validate(full=True)
                _check_values(batch)
                yield batch.select(names)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: that step left no rollouts (logging.rollouts_every)") from None
    except UserError:
        raise
    except Exception as error:  # a damaged file may fail anywhere in pyarrow, in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is not a file of rollouts: {reason}") from None


def _types(schema: pa.Schema) -> dict[str, str]:
    # the name of a list's items differs between writers and means nothing
    return {field.name: str(field.type).replace("element:", "item:") for field in schema}


def _check_values(batch: pa.RecordBatch) -> None:
    """Raises ValueError for a value that is missing, or log-probs that are not one for each token."""
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    for name, column in columns.items():
        is_list = name in ("token_ids", "logprobs")
        if (column.null_count and name not in _MAY_LACK) or (is_list and column.flatten().null_count):
            raise ValueError(f"the column {name} lacks values")
    lengths = [columns[name].value_lengths() for name in ("token_ids", "logprobs") if name in columns]
    if len(lengths) == 2 and not lengths[0].equals(lengths[1]):
        raise ValueError("log-probs are not one for each token")
