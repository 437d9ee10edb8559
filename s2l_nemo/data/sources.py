"""Records of a JSON, CSV or parquet file or of a data set of the Hugging Face hub, one at a time.

A damaged record is yielded as a `BadRow`, so that the reader may go on. No code of a source is run: no pickle, no data
set scripts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2l_nemo.data import csv_file, json_file
from s2l_nemo.data.opened import kind_of
from s2l_nemo.errors import UserError
from s2l_nemo.hub.files import data_files
from s2l_nemo.hub.names import Kind, hub_name

Record = dict[str, Any]

PARQUET = ".parquet"
SUFFIXES = (*json_file.SUFFIXES, *csv_file.SUFFIXES)  # of files that may also be compressed: .jsonl.gz
_BATCH_ROWS = 1024


@dataclass(frozen=True)
class BadRow:
    """A record that cannot be used. `line` counts lines from 1, or rows if the source has no lines."""

    line: int
    reason: str


def read_records(
    source: str, keys: Collection[str] | None = None, others: Collection[str] = ()
) -> Iterator[tuple[int, Record | BadRow]]:
    """(line, record) of every line that is not blank. Memory does not grow with the source, unless it is a JSON array.

    `source` is a file (.parquet; .jsonl, .ndjson or .json with one object a line or one array; .csv, .tsv; all but
    parquet also .gz), or a data set of the hub, `owner/name[/config][@revision][:split]`; the split is `train` by
    default. `keys` and `others` are names or dotted paths. If a parquet file has all `keys`, only their columns are
    read, and those of the `others` that it has.

    Raises UserError if the source as a whole cannot be read.
    """
    path = Path(source)
    if path.suffix == PARQUET:
        return _parquet_records(path, keys, others)
    if kind_of(path) in json_file.SUFFIXES:
        return _checked(json_file.json_records(path))
    if kind_of(path) in csv_file.SUFFIXES:
        return _checked(csv_file.csv_records(path))
    if is_hub_name(source):
        return _hub_records(source, keys)
    raise UserError(
        f"cannot read prompts from {source}: it ends neither in .parquet nor in {', '.join(SUFFIXES)} (or these with "
        ".gz), and is no owner/name of the Hugging Face hub; correct the path or convert the file"
    )


def is_hub_name(source: str) -> bool:
    """Whether `source` names a data set of the hub: it is `owner/name...` and no file or folder here."""
    return hub_name(Kind.dataset, source) is not None


def _checked(records: Iterator[tuple[int, Record | str]]) -> Iterator[tuple[int, Record | BadRow]]:
    """The records, with a `BadRow` for each text that says what is wrong with one."""
    for line, record in records:
        yield line, BadRow(line, record) if isinstance(record, str) else record


def _parquet_records(
    path: Path, keys: Collection[str] | None, others: Collection[str]
) -> Iterator[tuple[int, Record | BadRow]]:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if keys is not None and (columns := _columns(keys, names)) <= set(names):
                names = sorted(columns | (_columns(others, names) & set(names)))
            row = 0
            for batch in file.iter_batches(_BATCH_ROWS, columns=names, use_threads=False):
                for record in _batch_records(batch):
                    row += 1
                    yield row, BadRow(row, record) if isinstance(record, str) else record
    except OSError as error:
        reason = error.strerror or _line(error)
        raise UserError(f"cannot read prompts from {path}: {reason}; correct the path") from error
    except Exception as error:  # a damaged file may fail anywhere in pyarrow, in many ways
        raise UserError(
            f"cannot read prompts from {path}: no parquet file, or a damaged one ({_line(error)})"
        ) from error


def _columns(keys: Collection[str], names: Collection[str]) -> set[str]:
    """The columns that hold the keys."""
    return {key if key in names else key.split(".")[0] for key in keys}


def _batch_records(batch: Any) -> Iterator[Record | str]:
    """The rows of a batch. A row that is not text is replaced by a text that says what is wrong with it."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield f"not UTF-8 at byte {error.start} of a text; write the file anew from UTF-8 text"


def _hub_records(source: str, keys: Collection[str] | None) -> Iterator[tuple[int, Record | BadRow]]:
    """The records of all files of a split, numbered on from file to file."""
    before = 0
    for path in data_files(source) or []:
        last = before
        for line, record in read_records(str(path), keys):
            last = before + line
            if isinstance(record, BadRow):
                yield last, BadRow(last, f"{path.name}:{record.line}: {record.reason}")
            else:
                yield last, record
        before = last


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
