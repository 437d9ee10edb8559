"""Records of a JSONL file, a parquet file or a data set of the Hugging Face hub, one at a time.

A damaged record is yielded as a `BadRow`, so that the reader may go on. No code of a source is run: no pickle, no data
set scripts.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from s2l_nemo.errors import UserError
from s2l_nemo.hub.files import data_files
from s2l_nemo.hub.names import Kind, hub_name

Record = dict[str, Any]

JSONL_SUFFIXES = (".jsonl", ".ndjson", ".json")
MAX_LINE_BYTES = 64 * 2**20  # a file without line breaks must not fill the memory
_BATCH_ROWS = 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class BadRow:
    """A record that cannot be used. `line` counts lines from 1, or rows if the source has no lines."""

    line: int
    reason: str


def read_records(source: str, keys: Collection[str] | None = None) -> Iterator[tuple[int, Record | BadRow]]:
    """(line, record) of every line that is not blank. Memory does not grow with the source.

    `source` is a file (.parquet, .jsonl, .ndjson, or .json with one object a line), or a data set of the hub,
    `owner/name[/config][@revision][:split]`; the split is `train` by default. `keys` are names or dotted paths. If a
    parquet file has all of them, only their columns are read.

    Raises UserError if the source as a whole cannot be read.
    """
    path = Path(source)
    if path.suffix == ".parquet":
        return _parquet_records(path, keys)
    if path.suffix in JSONL_SUFFIXES:
        return _jsonl_records(path)
    if is_hub_name(source):
        return _hub_records(source, keys)
    raise UserError(
        f"cannot read prompts from {source}: it ends neither in .parquet nor in {', '.join(JSONL_SUFFIXES)} and is no "
        "owner/name of the Hugging Face hub; correct the path or convert the file"
    )


def is_hub_name(source: str) -> bool:
    """Whether `source` names a data set of the hub: it is `owner/name...` and no file or folder here."""
    return hub_name(Kind.dataset, source) is not None


def _jsonl_records(path: Path) -> Iterator[tuple[int, Record | BadRow]]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"cannot read prompts from {path}: {error.strerror}; correct the path") from error
    with file:
        for number, line in enumerate(_lines(file), start=1):
            if line is None:
                yield number, BadRow(number, f"longer than {MAX_LINE_BYTES >> 20} MiB; write one object a line")
            elif line.strip():
                try:
                    yield number, _parse(line)
                except (ValueError, RecursionError) as error:
                    yield number, BadRow(number, _what_is_wrong(line, error))


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Every line; None in place of a line over `MAX_LINE_BYTES`."""
    while line := file.readline(MAX_LINE_BYTES):
        if len(line) < MAX_LINE_BYTES or line.endswith(b"\n"):
            yield line
        else:
            while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield None


def _parse(line: bytes) -> Record:
    record = json.loads(line.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    if not isinstance(record, dict):
        raise ValueError(f"a JSON {type(record).__name__} instead of an object")
    return record


def _unique(pairs: list[tuple[str, Any]]) -> Record:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} occurs twice; keep one")
    return record


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not valid JSON; write null or a number")


def _what_is_wrong(line: bytes, error: ValueError | RecursionError) -> str:
    if line.startswith(_BYTE_ORDER_MARK):
        return "begins with a byte order mark (BOM); save the file as UTF-8 without one"
    if b"\0" in line:
        return f"a NUL byte at byte {line.index(0) + 1} of the line; the file is damaged or not UTF-8"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start} of the line; convert the file to UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON ({error.msg} at column {error.colno}); one object a line"
    if isinstance(error, RecursionError):
        return "nested too deeply; write flat objects"
    return str(error)


def _parquet_records(path: Path, keys: Collection[str] | None) -> Iterator[tuple[int, Record | BadRow]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if keys is not None and (columns := {k if k in names else k.split(".")[0] for k in keys}) <= set(names):
                names = sorted(columns)
            row = 0
            for batch in file.iter_batches(_BATCH_ROWS, columns=names, use_threads=False):
                for record in _batch_records(batch):
                    row += 1
                    yield row, BadRow(row, record) if isinstance(record, str) else record
    except pa.ArrowException as error:
        raise UserError(
            f"cannot read prompts from {path}: no parquet file, or a damaged one ({_line(error)})"
        ) from error
    except OSError as error:
        reason = error.strerror or _line(error)
        raise UserError(f"cannot read prompts from {path}: {reason}; correct the path") from error


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
