"""Takes questions and gold answers from the records of a file or of a Hugging Face data set."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice

from s2l_nemo.config.mix import DataSource
from s2l_nemo.config.schema import OnBadRow
from s2l_nemo.data.choices import CHOICE_KEYS, find_choices
from s2l_nemo.data.golds import final_answer
from s2l_nemo.data.sources import BadRow, Record, read_records
from s2l_nemo.data.texts import check_text
from s2l_nemo.errors import UserError


@dataclass(frozen=True)
class Row:
    """One question, with its choices if it has any. `row` counts the lines or rows of the source from 0, `line` from 1.

    Bad ones count too. `system` is a system message of the row's own.
    """

    row: int
    question: str
    answer: str
    line: int
    system: str | None = None


@dataclass(frozen=True)
class Rows:
    """The usable rows in source order, and the malformed rows that were left out."""

    rows: list[Row]
    skipped: list[BadRow]


def read_rows(source: DataSource, on_bad_row: OnBadRow, limit: int | None = None) -> Rows:
    """The first `limit` usable rows (all by default) of a file or hub data set; see `sources.read_records`.

    A key may be a dotted path into objects, such as `reward_model.ground_truth`. Raises UserError if the source cannot
    be read. Unless `on_bad_row` is `skip`, the first malformed row raises UserError too, with its file and line.
    """
    skipped: list[BadRow] = []
    return Rows(list(islice(_rows(source, on_bad_row, skipped), limit)), skipped)


def _rows(source: DataSource, on_bad_row: OnBadRow, skipped: list[BadRow]) -> Iterator[Row]:
    keys = [source.prompt_key, source.answer_key, *([] if source.system_key is None else [source.system_key])]
    for line, record in read_records(source.path, keys, CHOICE_KEYS):
        row = record if isinstance(record, BadRow) else _row(line, record, source)
        if isinstance(row, Row):
            yield row
        elif on_bad_row is OnBadRow.skip:
            skipped.append(row)
        else:
            raise UserError(f"{source.path}:{row.line}: {row.reason}")


def _row(line: int, record: Record, source: DataSource) -> Row | BadRow:
    try:
        system, question = chat_of(lookup(record, source.prompt_key, "data.prompt_key"), source.prompt_key)
        if source.system_key is not None:
            system = system_of(lookup(record, source.system_key, "data.system_key"), source.system_key) or system
        value = lookup(record, source.answer_key, "data.answer_key")
        answer = answer_of(value, source.answer_key)
        if choices := find_choices(record, value, source.answer_key):
            question, answer = f"{question}\n\n{choices.listed()}", choices.gold
        return Row(line - 1, question, answer, line, system)
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
    """The text of a prompt that has no system message; see `chat_of`. Raises ValueError for anything else."""
    system, question = chat_of(value, key)
    if system is not None:
        raise ValueError(f"{key!r} must be one user message, without a system message; correct the row")
    return question


def chat_of(value: object, key: str) -> tuple[str | None, str]:
    """System message, if there is one, and question.

    A prompt is a string, or a chat of one user message that a system message may precede. Raises ValueError for
    anything else.
    """
    system: str | None = None
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        roles = [str(turn.get("role")) for turn in value]
        if roles not in (["user"], ["system", "user"]):
            raise ValueError(
                f"{key!r} must be one user message, after a system message or none, not {_short(', '.join(roles))}"
            )
        system = system_of(value[0].get("content"), key) if len(value) > 1 else None
        value = value[-1].get("content")
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key!r} must be a non-empty string, not {_short(value)}; correct or remove the row")
    check_text(value, key)
    return system, value


def system_of(value: object, key: str) -> str | None:
    """A system message; None for null or an empty text. Raises ValueError for anything else."""
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise ValueError(f"the system message in {key!r} must be a string, not {_short(value)}; correct the row")
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

    A string stays as it is, or gives the answer at its end if it is a worked solution (`golds.final_answer`). A number
    becomes its decimal digits. A list becomes its members joined by ", ": a response must give all of them. Raises
    ValueError for a bool, NaN, an infinity, an object, null, or an empty or nested list.
    """
    if isinstance(value, str):
        return final_answer(value)
    if isinstance(value, bool):
        raise ValueError(f"{value} is no answer")
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else format(Decimal(repr(value)), "f")
    if isinstance(value, list) and value and not any(isinstance(part, list) for part in value):
        return ", ".join(map(gold_text, value))
    raise ValueError(f"{_short(value)} is no answer")


_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 60


def _short(value: object) -> str:
    return _repr.repr(value)
