"""`BENCH_raw.jsonl`: one object a problem with its sampled responses. Appended durably, read row by row."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from s2l_nemo.data.rows import gold_text
from s2l_nemo.data.sources import BadRow, read_records
from s2l_nemo.errors import UserError
from s2l_nemo.files import sync

SUFFIX = "_raw.jsonl"


@dataclass(frozen=True)
class RawRow:
    """A problem with its K responses. Files of others may lack ids, token counts and finish reasons."""

    id: int | str
    question: str
    answer: str
    outputs: list[str]
    tokens: list[int] | None
    finish_reasons: list[str] | None


def read_raw(path: Path) -> Iterator[RawRow]:
    """The rows of a file.

    A row without an id gets its number, counted from 0. Token counts and finish reasons are left out if they are not
    one for each response. Raises UserError, naming file and line, for a malformed row or a repeated id.
    """
    seen: set[int | str] = set()
    for index, (line, record) in enumerate(read_records(str(path))):
        try:
            if isinstance(record, BadRow):
                raise ValueError(record.reason)
            row = _row(record, index)
            if row.id in seen:
                raise ValueError(f"id {row.id!r} came before; keep one row of each problem")
        except ValueError as error:
            raise UserError(f"{path}:{line}: {error}") from None
        seen.add(row.id)
        yield row


def append_raw(path: Path, rows: Sequence[RawRow]) -> None:
    """Adds rows and waits until they are on the disk. A kill leaves at most a torn last line; see `cut_back`."""
    is_new = not path.exists()
    with path.open("ab") as file:
        file.write(b"".join(json_line(asdict(row)) for row in rows))
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync(path.parent)


def cut_back(path: Path, chunk: int, total: int) -> int:
    """Shortens the file to whole chunks of `chunk` rows, or to all `total` rows, and returns the rows that stay.

    So a chunk is always sampled as a whole, and the engine sees the same batches whether or not it was cut off.
    """
    if not path.exists():
        return 0
    ends = [0]  # byte after each whole line
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                ends.append(ends[-1] + len(line))
    rows = min(len(ends) - 1, total)
    if rows < total:
        rows -= rows % chunk
    os.truncate(path, ends[rows])
    return rows


def json_line(obj: object) -> bytes:
    """`obj` as one line of JSON in UTF-8. Half a surrogate pair has no UTF-8 and stays a JSON escape."""
    return (json.dumps(obj, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "backslashreplace")


def _row(record: dict[str, Any], index: int) -> RawRow:
    for key in ("question", "answer", "outputs"):
        if key not in record:
            raise ValueError(f"no key {key!r}, there are {sorted(record)}")
    question, outputs, row_id = record["question"], record["outputs"], record.get("id", index)
    if not isinstance(question, str):
        raise ValueError(f"'question' must be a string, not {question!r}"[:200])
    if not isinstance(outputs, list) or not all(isinstance(output, str) for output in outputs):
        raise ValueError("'outputs' must be a list of strings, one a sample")
    if isinstance(row_id, bool) or not isinstance(row_id, int | str):
        raise ValueError(f"'id' must be an integer or a string, not {row_id!r}"[:200])
    try:
        answer = gold_text(record["answer"])
    except ValueError as error:
        raise ValueError(f"'answer': {error}") from None
    if not answer.strip():
        raise ValueError("'answer' is empty: no response can be right; give the answer or remove the row")
    tokens, reasons = (_per_output(record.get(key), kind, len(outputs)) for key, kind in _PER_OUTPUT)
    return RawRow(row_id, question, answer, outputs, tokens, reasons)


_PER_OUTPUT: tuple[tuple[str, type], ...] = (("tokens", int), ("finish_reasons", str))


def _per_output(value: Any, kind: type, count: int) -> Any:
    is_ours = isinstance(value, list) and len(value) == count and all(isinstance(item, kind) for item in value)
    return value if is_ours else None
