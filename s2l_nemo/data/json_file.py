"""Records of a JSON file: one object a line, or one array of objects. A damaged record is a text that says why."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from s2l_nemo.data import opened
from s2l_nemo.data.opened import BYTE_ORDER_MARK, lines, start
from s2l_nemo.errors import UserError

SUFFIXES = (".jsonl", ".ndjson", ".json")
MAX_ARRAY_BYTES = 2**30  # an array is read as a whole
_ARRAY = re.compile(rb"\s*\[\s*(?:[{\]]|\Z)")


def json_records(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """(line, object) of every line that is not blank, or (number, object) of an array.

    Raises UserError if the file cannot be opened, or is an array and no valid JSON.
    """
    with opened.opened(path) as file:
        if _ARRAY.match(start(file)):
            yield from enumerate(_array(path, file), start=1)
        else:
            yield from _lines(file)


def _lines(file: BinaryIO) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, line in enumerate(lines(file), start=1):
        if line is None:
            yield number, f"longer than {opened.MAX_LINE_BYTES >> 20} MiB; write one object a line"
        elif line.strip():
            try:
                value, has_fault = _parse(line)
                yield number, _object(value, has_fault)
            except (ValueError, RecursionError) as error:
                yield number, _what_is_wrong(line, error, "column {0.colno}", "; one object a line")


def _array(path: Path, file: BinaryIO) -> Iterator[dict[str, Any] | str]:
    content = file.read(MAX_ARRAY_BYTES + 1)
    if len(content) > MAX_ARRAY_BYTES:
        raise UserError(f"{path} is an array of over {MAX_ARRAY_BYTES >> 20} MiB: write one object a line")
    try:
        items, has_fault = _parse(content)
    except (ValueError, RecursionError) as error:
        wrong = _what_is_wrong(content, error, "line {0.lineno} column {0.colno}", "; correct the file")
        raise UserError(f"cannot read prompts from {path}: {wrong}") from error
    for item in items:
        try:
            yield _object(item, has_fault)
        except (ValueError, RecursionError) as error:
            yield str(error)


class _Fault(str):
    """Stands in the place of a value that JSON should not hold, and says why."""


def _parse(content: bytes) -> tuple[Any, bool]:
    """The value, and whether it holds a `_Fault`."""
    faults = []

    def fault(reason: str) -> _Fault:
        faults.append(_Fault(reason))
        return faults[-1]

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Fault:
        record = dict(pairs)
        if len(record) == len(pairs):
            return record
        names = [name for name, _ in pairs]
        return fault(f"the key {next(n for n in names if names.count(n) > 1)!r} occurs twice; keep one")

    def constant(name: str) -> _Fault:
        return fault(f"{name} is not valid JSON; write null or a number")

    value = json.loads(content.decode("utf-8"), object_pairs_hook=unique, parse_constant=constant)
    return value, bool(faults)


def _object(value: Any, has_fault: bool) -> dict[str, Any]:
    """The value, if it is an object without faults. Raises ValueError if not."""
    if has_fault and (fault := _fault_in(value)) is not None:
        raise ValueError(fault)
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {type(value).__name__} instead of an object")
    return value


def _fault_in(value: Any) -> str | None:
    if isinstance(value, _Fault):
        return str(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((fault for fault in map(_fault_in, inner) if fault is not None), None)


def _what_is_wrong(content: bytes, error: ValueError | RecursionError, place: str, advice: str) -> str:
    if content.startswith(BYTE_ORDER_MARK):
        return "begins with a byte order mark (BOM); save the file as UTF-8 without one"
    if b"\0" in content:
        return f"a NUL byte at byte {content.index(0) + 1} of the line; the file is damaged or not UTF-8"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start} of the line; convert the file to UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON ({error.msg} at {place.format(error)}){advice}"
    if isinstance(error, RecursionError):
        return "nested too deeply; write flat objects"
    return str(error)
