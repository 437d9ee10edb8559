"""Takes questions and gold answers from the records of a JSONL or parquet file or of a Hugging Face data set."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice

from s2l_nemo.config.schema import OnBadRow
from s2l_nemo.data.sources import BadRow, Record, read_records
from s2l_nemo.errors import UserError


@dataclass(frozen=True)
class Row:
    """One question. `row` counts the lines or rows of the source from 0, `line` from 1. Bad ones count too."""

    row: int
    question: str
    answer: str
    line: int


@dataclass(frozen=True)
class Rows:
    """The usable rows in source order, and the malformed rows that were left out."""

    rows: list[Row]
    skipped: list[BadRow]


def read_rows(path: str, prompt_key: str, answer_key: str, on_bad_row: OnBadRow, limit: int | None = None) -> Rows:
    """The first `limit` usable rows (all by default) of a file or hub data set; see `sources.read_records`.

    A key may be a dotted path into objects, such as `reward_model.ground_truth`. Raises UserError if the source cannot
    be read. Unless `on_bad_row` is `skip`, the first malformed row raises UserError too, with its file and line.
    """
    skipped: list[BadRow] = []
    return Rows(list(islice(_rows(path, prompt_key, answer_key, on_bad_row, skipped), limit)), skipped)


def _rows(path: str, prompt_key: str, answer_key: str, on_bad_row: OnBadRow, skipped: list[BadRow]) -> Iterator[Row]:
    for line, record in read_records(path, (prompt_key, answer_key)):
        row = record if isinstance(record, BadRow) else _row(line, record, prompt_key, answer_key)
        if isinstance(row, Row):
            yield row
        elif on_bad_row is OnBadRow.skip:
            skipped.append(row)
        else:
            raise UserError(f"{path}:{row.line}: {row.reason}")


def _row(line: int, record: Record, prompt_key: str, answer_key: str) -> Row | BadRow:
    try:
        prompt = lookup(record, prompt_key, "data.prompt_key")
        answer = lookup(record, answer_key, "data.answer_key")
        return Row(line - 1, question_of(prompt, prompt_key), answer_of(answer, answer_key), line)
    except ValueError as error:
        return BadRow(line, str(error))


def lookup(record: Record, key: str, option: str) -> object:
    """The value at `key`, which is a field name or a dotted path into objects.

    Raises ValueError if there is none. The message names the configuration `option` to correct.
    """
    if key in record:
        return record[key]
    value: object = record
    for name in key.split("."):
        if not isinstance(value, dict) or name not in value:
            raise ValueError(f"no key {key!r}, there are {sorted(map(str, record))}; set {option}")
        value = value[name]
    return value


def question_of(value: object, key: str) -> str:
    """The text of a prompt: a string, or a chat of one user message. Raises ValueError for anything else."""
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        if len(value) > 1 or value[0].get("role") != "user":
            roles = ", ".join(str(turn.get("role")) for turn in value)
            raise ValueError(
                f"{key!r} must be one user message, not {_short(roles)}; system text belongs into data.system_prompt"
            )
        value = value[0].get("content")
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key!r} must be a non-empty string, not {_short(value)}; correct or remove the row")
    check_text(value, key)
    return value


def answer_of(value: object, key: str) -> str:
    """A gold answer as text, see `gold_text`. Raises ValueError if it is none or is empty."""
    try:
        text = gold_text(value)
    except ValueError as error:
        raise ValueError(
            f"{key!r} must be a string or an integer, not {_short(value)}; correct or remove the row"
        ) from error
    if not text.strip():
        raise ValueError(f"{key!r} is empty; give the answer or remove the row")
    check_text(text, key)
    return text


def gold_text(value: object) -> str:
    """A gold answer as text.

    A string stays as it is, and a number becomes its decimal digits. A list becomes its members joined by ", ": a
    response must give all of them. Raises ValueError for a bool, NaN, an infinity, an object, null, or an empty or
    nested list.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        raise ValueError(f"{value} is no answer")
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else format(Decimal(repr(value)), "f")
    if isinstance(value, list) and value and not any(isinstance(part, list) for part in value):
        return ", ".join(map(gold_text, value))
    raise ValueError(f"{_short(value)} is no answer")


def check_text(text: str, key: str) -> None:
    """Raises ValueError if `text` cannot be stored or tokenised: NUL characters, halves of surrogate pairs."""
    if "\0" in text:
        raise ValueError(f"{key!r} holds a NUL character; correct or remove the row")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{key!r} holds half of a surrogate pair at character {error.start + 1}, which is no text; correct or "
            "remove the row"
        ) from error


_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 60


def _short(value: object) -> str:
    return _repr.repr(value)
