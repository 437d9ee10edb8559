"""Parquet shards: the published form of the rollouts, each file whole or absent, and checked when it is read.

A shard carries the identity of its store and a digest of its content, so a byte that was lost or changed is found.
Axes: R rollouts, N tokens of all of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from s2l_nemo.errors import UserError
from s2l_nemo.files import replacing
from s2l_nemo.store.facts import StoreFacts, difference
from s2l_nemo.types import FinishReason

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = "rollouts"
UNKNOWN_SEED = -1
_META = b"s2l_nemo.store"
_REMEDY = "remove it and sample again"
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rollout:
    """One stored completion. `sample` counts from 0 for each prompt. `logprobs` is None if they are unknown."""

    prompt_id: int
    sample: int
    token_ids: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32] | None
    finish_reason: FinishReason
    reward: float
    answer: str | None
    grader_error: str | None
    seed: int | None


@dataclass(frozen=True)
class Shard:
    """The rollouts of one file, by column."""

    prompt_id_R: Ints
    sample_R: Ints
    length_R: Ints  # tokens
    tokens_N: npt.NDArray[np.int32]
    logprobs_N: npt.NDArray[np.float32] | None
    stopped_R: npt.NDArray[np.bool_]
    reward_R: npt.NDArray[np.float32]
    answer_R: list[str | None]
    grader_error_R: list[str | None]
    seed_R: Ints

    @classmethod
    def of(cls, rollouts: Sequence[Rollout]) -> Shard:
        """In the order of (prompt_id, sample). There is at least one."""
        rows = sorted(rollouts, key=lambda row: (row.prompt_id, row.sample))
        logprobs = [row.logprobs for row in rows if row.logprobs is not None]
        assert len(logprobs) in (0, len(rows))
        return cls(
            prompt_id_R=np.array([row.prompt_id for row in rows], np.int64),
            sample_R=np.array([row.sample for row in rows], np.int64),
            length_R=np.array([len(row.token_ids) for row in rows], np.int64),
            tokens_N=np.concatenate([row.token_ids for row in rows]).astype(np.int32, copy=False),
            logprobs_N=np.concatenate(logprobs).astype(np.float32, copy=False) if logprobs else None,
            stopped_R=np.array([row.finish_reason == "stop" for row in rows], np.bool_),
            reward_R=np.array([row.reward for row in rows], np.float32),
            answer_R=[row.answer for row in rows],
            grader_error_R=[row.grader_error for row in rows],
            seed_R=np.array([UNKNOWN_SEED if row.seed is None else row.seed for row in rows], np.int64),
        )

    def digest(self) -> str:
        """SHA-256 over all values."""
        digest = hashlib.sha256()
        arrays = (
            self.prompt_id_R, self.sample_R, self.length_R, self.tokens_N, self.logprobs_N, self.stopped_R,
            self.reward_R, self.seed_R,
        )  # fmt: skip
        for array in arrays:
            digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        digest.update(json.dumps([self.answer_R, self.grader_error_R]).encode())
        return digest.hexdigest()


def shard_paths(folder: Path) -> list[Path]:
    """The shards of a store, by name."""
    return sorted((folder / FOLDER).glob("*.parquet"))


def write_shard(path: Path, shard: Shard, facts: StoreFacts, engine: str) -> None:
    """Writes the file, whole or not at all. `engine` is the kind of engine that sampled, for people who look."""
    import pyarrow as pa
    from pyarrow import parquet

    ends_R = np.concatenate([[0], np.cumsum(shard.length_R)]).astype(np.int32)
    rows = len(shard.prompt_id_R)
    logprobs = pa.nulls(rows, pa.list_(pa.float32()))
    if shard.logprobs_N is not None:
        logprobs = pa.ListArray.from_arrays(ends_R, shard.logprobs_N)
    columns = {
        "prompt_id": shard.prompt_id_R,
        "sample": shard.sample_R.astype(np.int32),
        "token_ids": pa.ListArray.from_arrays(ends_R, shard.tokens_N),
        "logprobs": logprobs,
        "finish_reason": np.where(shard.stopped_R, "stop", "length"),
        "reward": shard.reward_R,
        "answer": pa.array(shard.answer_R, pa.string()),
        "grader_error": pa.array(shard.grader_error_R, pa.string()),
        "seed": pa.array(shard.seed_R, mask=shard.seed_R == UNKNOWN_SEED),
    }
    meta = {"identity": facts.identity(), "digest": shard.digest(), "engine": engine}
    table = pa.table(columns, schema=_schema()).replace_schema_metadata({_META: json.dumps(meta, allow_nan=False)})
    with replacing(path) as temporary:
        parquet.write_table(table, temporary, compression="zstd")


def read_shard(path: Path, facts: StoreFacts, prompt_ids: AbstractSet[int]) -> Shard:
    """The rollouts of a file, checked against the facts of its store.

    Raises UserError, naming the file, if it is no shard of this store, is damaged, or holds what no sampler writes.
    """
    table, meta = _read(path, None)
    _check_identity(path, meta, facts)
    shard = _shard_of(path, table, facts)
    if shard.digest() != meta.get("digest"):
        raise UserError(f"{path}: its content is not what was written: {_REMEDY}")
    _check_values(path, shard, facts, prompt_ids)
    return shard


def read_keys(path: Path, facts: StoreFacts) -> tuple[Ints, Ints]:
    """Prompt ids and samples of a file, [R] each. Its tokens are not read. Raises UserError as `read_shard`."""
    table, meta = _read(path, ["prompt_id", "sample"])
    _check_identity(path, meta, facts)
    return _numbers(table, "prompt_id").astype(np.int64), _numbers(table, "sample").astype(np.int64)


@dataclass(frozen=True)
class ShardNotes:
    """What training does not read of a shard: the texts beside each rollout, and the kind of engine that sampled."""

    engine: str
    prompt_ids: list[int]
    samples: list[int]
    answers: list[str | None]
    grader_errors: list[str | None]


def read_notes(path: Path, facts: StoreFacts) -> ShardNotes:
    """The notes of a file. Raises UserError as `read_shard`, but its tokens are not read."""
    names = ["prompt_id", "sample", "answer", "grader_error"]
    table, meta = _read(path, names)
    _check_identity(path, meta, facts)
    return ShardNotes(str(meta.get("engine")), *(table[name].to_pylist() for name in names))


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        {
            "prompt_id": pa.int64(),
            "sample": pa.int32(),
            "token_ids": pa.list_(pa.int32()),
            "logprobs": pa.list_(pa.float32()),
            "finish_reason": pa.string(),
            "reward": pa.float32(),
            "answer": pa.string(),
            "grader_error": pa.string(),
            "seed": pa.int64(),
        }
    )


def _read(path: Path, columns: list[str] | None) -> tuple[pa.Table, dict[str, Any]]:
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            table = file.read(columns=columns)
        table.validate(full=True)
        meta = json.loads((schema.metadata or {}).get(_META, b"null"))
    except Exception as error:  # a damaged file may fail anywhere in pyarrow, in many ways
        reason = str(error).strip().split("\n")[0][:200]
        raise UserError(f"{path} cannot be read as parquet ({type(error).__name__}: {reason}): {_REMEDY}") from error
    if not isinstance(meta, dict):
        raise UserError(f"{path} is no shard of a store: nothing in it says which store it belongs to; remove it")
    found, wanted = column_types(schema), column_types(_schema())
    if found != wanted:
        raise UserError(f"{path}: column {difference(wanted, found)}: {_REMEDY}")
    return table, meta


def column_types(schema: pa.Schema) -> dict[str, str]:
    """The types of a schema's columns by name, as text."""
    # the name of a list's items differs between writers and means nothing
    return {field.name: str(field.type).replace("element:", "item:") for field in schema}


def _check_identity(path: Path, meta: dict[str, Any], facts: StoreFacts) -> None:
    identity = meta.get("identity")
    found = difference(facts.identity(), identity if isinstance(identity, dict) else {})
    if found:
        raise UserError(f"{path} belongs to another store: {found} in the file; remove it")


def _shard_of(path: Path, table: pa.Table, facts: StoreFacts) -> Shard:
    for name in ("prompt_id", "sample", "token_ids", "finish_reason", "reward"):
        if table[name].null_count:
            raise UserError(f"{path}: {table[name].null_count} rollouts have no {name}: {_REMEDY}")
    length_R, tokens_N = _lists(path, table, "token_ids")
    logprobs_N = None
    if table["logprobs"].null_count != (0 if facts.has_logprobs else len(table)):
        raise UserError(f"{path}: not every rollout has what store.json says of log-probs: {_REMEDY}")
    if facts.has_logprobs:
        lengths, logprobs_N = _lists(path, table, "logprobs")
        if not np.array_equal(lengths, length_R):
            row = int(np.argmax(lengths != length_R))
            raise UserError(f"{path}: row {row} has {length_R[row]} tokens and {lengths[row]} log-probs: {_REMEDY}")
    reasons = table["finish_reason"].to_pylist()
    if not {*reasons} <= {"stop", "length"}:
        raise UserError(f"{path}: unknown finish reason {min({*reasons} - {'stop', 'length'})!r:.40}: {_REMEDY}")
    return Shard(
        prompt_id_R=_numbers(table, "prompt_id"),
        sample_R=_numbers(table, "sample").astype(np.int64),
        length_R=length_R,
        tokens_N=tokens_N,
        logprobs_N=logprobs_N,
        stopped_R=np.array([reason == "stop" for reason in reasons], np.bool_),
        reward_R=_numbers(table, "reward"),
        answer_R=table["answer"].to_pylist(),
        grader_error_R=table["grader_error"].to_pylist(),
        seed_R=table["seed"].combine_chunks().fill_null(UNKNOWN_SEED).to_numpy(zero_copy_only=False),
    )


def _numbers(table: pa.Table, name: str) -> Any:
    return table[name].to_numpy()


def _lists(path: Path, table: pa.Table, name: str) -> tuple[Ints, Any]:
    """Lengths [R] and values [N] of a column of lists without nulls."""
    import pyarrow as pa

    column = table[name].combine_chunks()
    array = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
    values = array.flatten()
    if values.null_count:
        raise UserError(f"{path}: {name} holds nulls: {_REMEDY}")
    return array.value_lengths().to_numpy().astype(np.int64), values.to_numpy()


def _check_values(path: Path, shard: Shard, facts: StoreFacts, prompt_ids: AbstractSet[int]) -> None:
    problem = next(_problems(shard, facts, prompt_ids), None)
    if problem:
        raise UserError(f"{path}: {problem}: {_REMEDY}")


def _problems(shard: Shard, facts: StoreFacts, prompt_ids: AbstractSet[int]) -> Iterator[str]:
    limit, length_R, tokens_N = facts.sampling.max_new_tokens, shard.length_R, shard.tokens_N
    strangers = {*shard.prompt_id_R.tolist()} - prompt_ids
    if strangers:
        yield f"prompt {min(strangers)} is not in the store's prompts"
    for sample in shard.sample_R[shard.sample_R < 0]:
        yield f"sample {sample} is negative"
    for length in length_R[(length_R < 1) | (length_R > limit)]:
        yield f"a rollout has {length} tokens, not 1 to {limit}"
    for token in tokens_N[(tokens_N < 0) | (tokens_N >= facts.vocab_size)]:
        yield f"token id {token} is outside of the vocabulary of {facts.vocab_size}"
    if shard.logprobs_N is not None and not np.isfinite(shard.logprobs_N).all():
        yield "a log-prob is not finite"
    if not np.isfinite(shard.reward_R).all():
        yield "a reward is not finite"
    last_R = np.cumsum(length_R) - 1
    if not np.array_equal(np.isin(tokens_N[last_R], facts.sampling.stop_token_ids), shard.stopped_R):
        yield "a finish reason does not fit the last token"
