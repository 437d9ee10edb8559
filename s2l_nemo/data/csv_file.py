"""Records of a CSV file with a line of column titles. A damaged record is a text that says what is wrong."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from s2l_nemo.data.opened import MAX_LINE_BYTES, opened, start
from s2l_nemo.errors import UserError

SUFFIXES = (".csv", ".tsv")
_DELIMITERS = ",;\t"


def csv_records(path: Path) -> Iterator[tuple[int, dict[str, str] | str]]:
    """(line, cells by column title) of every record; the line is its first one. All cells are texts.

    The delimiter is that of `,`, `;` and tab which the titles hold most often.

    Raises UserError if the file cannot be opened or has no titles, or if two titles are equal.
    """
    csv.field_size_limit(MAX_LINE_BYTES)
    with opened(path) as file:
        titles_line = start(file).partition(b"\n")[0].decode("utf-8", "surrogateescape")
        reader = csv.reader(_texts(file), delimiter=max(_DELIMITERS, key=titles_line.count), strict=True)
        titles = _titles(path, reader)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield line, f"not valid CSV ({error})"
                continue
            if cells is None:
                return
            if cells:  # not a blank line
                yield line, _record(titles, cells)


def _texts(file: BinaryIO) -> Iterator[str]:
    """Lines. A byte that is not UTF-8 becomes half a surrogate pair, by which `_record` finds it."""
    while line := file.readline(MAX_LINE_BYTES):
        yield line.decode("utf-8", "surrogateescape")


def _titles(path: Path, reader: Iterator[list[str]]) -> list[str]:
    try:
        titles = next(reader, [])
    except csv.Error as error:
        raise UserError(f"cannot read prompts from {path}: not valid CSV ({error}); correct its first line") from error
    if not any(titles) or len(set(titles)) < len(titles):
        raise UserError(
            f"cannot read prompts from {path}: its first line must name the columns, each differently, not {titles}"
        )
    return titles


def _record(titles: list[str], cells: list[str]) -> dict[str, str] | str:
    if len(cells) != len(titles):
        return f"{len(cells)} cells under {len(titles)} titles; put quotes around a cell that holds the delimiter"
    record = dict(zip(titles, cells, strict=True))
    for title, cell in record.items():
        try:
            cell.encode("utf-8")
        except UnicodeEncodeError:
            return f"not UTF-8 in the column {title!r}; convert the file to UTF-8"
    return record
