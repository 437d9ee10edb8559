"""`prompts.parquet`: the questions of a store, so that a run can tell in which one it differs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from s2l_nemo.errors import UserError
from s2l_nemo.files import replacing
from s2l_nemo.store.facts import PromptsDigest, StoreFacts, difference
from s2l_nemo.store.shards import column_types
from s2l_nemo.types import Prompt

if TYPE_CHECKING:
    import pyarrow as pa

NAME = "prompts.parquet"


def write_prompts(folder: Path, prompts: Sequence[Prompt]) -> None:
    """Writes the file in the order of the ids, whole or not at all."""
    import pyarrow as pa
    from pyarrow import parquet

    ordered = sorted(prompts, key=lambda prompt: prompt.prompt_id)
    columns = {
        "prompt_id": [prompt.prompt_id for prompt in ordered],
        "text": [prompt.text for prompt in ordered],
        "answer": [prompt.answer for prompt in ordered],
        "token_ids": [prompt.token_ids for prompt in ordered],
    }
    table = pa.table(columns, schema=_schema())
    with replacing(folder / NAME) as temporary:
        parquet.write_table(table, temporary, compression="zstd")


def read_prompts(folder: Path, facts: StoreFacts) -> Iterator[Prompt]:
    """The prompts, ids ascending; a part of the file is held at a time.

    Raises UserError if the file is missing, damaged or another than `facts` says, which may show at its end.
    """
    path, digest = folder / NAME, PromptsDigest()
    for prompt in _rows(path):
        digest.add(prompt)
        yield prompt
    if digest.value() != facts.prompts_hash:
        raise UserError(f"{path} has other prompts than store.json says: restore it, or sample anew")


def _rows(path: Path) -> Iterator[Prompt]:
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            found = difference(column_types(_schema()), column_types(file.schema_arrow))
            if found:
                raise ValueError(f"column {found}")
            for batch in file.iter_batches(1024):
                batch.validate(full=True)
                columns = [batch.column(name) for name in _schema().names]
                if any(column.null_count for column in (*columns, columns[-1].flatten())):
                    raise ValueError("it holds nulls")
                for prompt_id, text, answer, token_ids in zip(*(one.to_pylist() for one in columns), strict=True):
                    yield Prompt(prompt_id, text, answer, tuple(token_ids))
    except Exception as error:  # a damaged file may fail anywhere in pyarrow, in many ways
        reason = str(error).strip().split("\n")[0][:200]
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {reason}): restore it") from error


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        {"prompt_id": pa.int64(), "text": pa.string(), "answer": pa.string(), "token_ids": pa.list_(pa.int32())}
    )


def prompt_difference(store: Iterable[Prompt], run: Sequence[Prompt]) -> str | None:
    """Where the run's prompts are not among the store's, in words. None if all of them are, unchanged."""
    known = {prompt.prompt_id: prompt for prompt in store}
    for prompt in run:
        other = known.get(prompt.prompt_id)
        if other is None:
            return f"prompt {prompt.prompt_id} of the run ({prompt.text!r:.60}) is not among its {len(known)} prompts"
        for name in ("text", "answer", "token_ids"):
            mine, its = getattr(prompt, name), getattr(other, name)
            if mine != its:
                return f"prompt {prompt.prompt_id} has {name} {mine!r:.60} in the run and {its!r:.60} in the store"
    return None
